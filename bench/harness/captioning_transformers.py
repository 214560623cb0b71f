"""Peers of the course's captioning transformer (width 256, two layers of two heads) that it is timed against.

Both compute the same function as opsin's model, for one vector of features an image, and can take over its weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from opsin.captioning.config import DecoderConfig
from opsin.captioning.model import CaptioningTransformer
from opsin.nn.embeddings import sinusoidal_positions

FEATURES = 512
COURSE_DECODER = DecoderConfig(
    embed_dim=256,
    num_layers=2,
    num_heads=2,
    dim_feedforward=2048,
    dropout=0.1,
    pre_norm=False,
    tie_weights=False,
    max_length=30,
)


class PlainAttention(nn.Module):
    """Scores, mask, softmax, dropout and weighted values spelled out, with a projection each."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        N, T, D = query.shape
        S = memory.shape[1]
        q = self.query(query).view(N, T, self.heads, D // self.heads).transpose(1, 2)
        k = self.key(memory).view(N, S, self.heads, D // self.heads).transpose(1, 2)
        v = self.value(memory).view(N, S, self.heads, D // self.heads).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(D // self.heads)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return self.proj(torch.matmul(weights, v).transpose(1, 2).reshape(N, T, D))


class PlainLayer(nn.Module):
    """Post-norm decoder layer."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = PlainAttention(width, heads, dropout)
        self.cross_attn = PlainAttention(width, heads, dropout)
        self.ffn = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_ffn = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        x = self.norm_self(x + self.dropout(self.self_attn(x, x, mask)))
        x = self.norm_cross(x + self.dropout(self.cross_attn(x, memory)))
        hidden = self.dropout(nn.functional.gelu(self.ffn["fc1"](x)))
        return self.norm_ffn(x + self.dropout(self.ffn["fc2"](hidden)))


class _Captioner(nn.Module):
    """Embedding, positions and scores around a stack of layers."""

    def __init__(self, num_words: int) -> None:
        super().__init__()
        width = COURSE_DECODER.embed_dim
        self.visual_projection = nn.Linear(FEATURES, width)
        self.embedding = nn.Embedding(num_words, width, padding_idx=0)
        self.dropout = nn.Dropout(COURSE_DECODER.dropout)
        self.output = nn.Linear(width, num_words)
        self.positions: Tensor
        self.register_buffer("positions", sinusoidal_positions(COURSE_DECODER.max_length, width), persistent=False)

    def decode(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, features: Tensor, captions: Tensor) -> Tensor:
        length = captions.shape[1]
        x = self.dropout(self.embedding(captions) + self.positions[:length])
        mask = torch.tril(torch.ones(length, length, dtype=torch.bool, device=x.device))
        return self.output(self.decode(x, self.visual_projection(features)[:, None], mask))

    def copy_frame(self, model: CaptioningTransformer) -> None:
        assert model.output is not None
        self.visual_projection.load_state_dict(model.visual_projection.state_dict())
        self.embedding.load_state_dict(model.embedding.state_dict())
        self.output.load_state_dict(model.output.state_dict())


class PlainCaptioner(_Captioner):
    """The obvious code."""

    def __init__(self, num_words: int) -> None:
        super().__init__(num_words)
        shape = COURSE_DECODER
        sizes = (shape.embed_dim, shape.num_heads, shape.dim_feedforward, shape.dropout)
        self.layers = nn.ModuleList(PlainLayer(*sizes) for _ in range(shape.num_layers))

    def decode(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, mask)
        return x

    def copy_weights(self, model: CaptioningTransformer) -> None:
        """Take over the weights of opsin's model, to compute the same function."""
        self.copy_frame(model)
        self.layers.load_state_dict(model.transformer.layers.state_dict())


class TorchCaptioner(_Captioner):
    """The same layers as torch itself provides them."""

    def __init__(self, num_words: int) -> None:
        super().__init__(num_words)
        shape = COURSE_DECODER
        layer = nn.TransformerDecoderLayer(
            shape.embed_dim, shape.num_heads, shape.dim_feedforward, shape.dropout, "gelu", batch_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, shape.num_layers)

    def decode(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(x, memory, tgt_mask=~mask)  # torch's masks say what is hidden

    def copy_weights(self, model: CaptioningTransformer) -> None:
        """Take over the weights of opsin's model, to compute the same function."""
        self.copy_frame(model)
        names = {"self_attn.out_proj": "self_attn.proj", "multihead_attn.out_proj": "cross_attn.proj"}
        names |= {"linear1": "ffn.fc1", "linear2": "ffn.fc2"}
        names |= {"norm1": "norm_self", "norm2": "norm_cross", "norm3": "norm_ffn"}
        packed = {"self_attn": "self_attn", "multihead_attn": "cross_attn"}
        for own, layer in zip(self.decoder.layers, model.transformer.layers, strict=True):
            state = layer.state_dict()
            content = {}
            for part in ("weight", "bias"):
                content |= {f"{new}.{part}": state[f"{old}.{part}"] for new, old in names.items()}
                for new, old in packed.items():
                    three = [state[f"{old}.{name}.{part}"] for name in ("query", "key", "value")]
                    content[f"{new}.in_proj_{part}"] = torch.cat(three)
            own.load_state_dict(content)
