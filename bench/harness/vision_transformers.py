"""The Vision Transformer of the course (patch 4, width 128, 6 layers, 8 heads) and the peers it is timed against.

`TextbookViT` and `TorchViT` compute the same function as opsin's model and can take over its weights. timm's model
has the same sizes and number of tokens but normalises before each sublayer, and once more at the end.
"""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from opsin.classification.config import ViTConfig
from opsin.nn.embeddings import sinusoidal_positions
from opsin.nn.vision_transformer import VisionTransformer

IMAGE_SIZE = 32
NUM_CLASSES = 10
COURSE_VIT = ViTConfig(
    patch_size=4,
    embed_dim=128,
    num_layers=6,
    num_heads=8,
    dim_feedforward=256,
    dropout=0.1,
    norm="post",
    pool="mean",
    positions="sinusoidal",
    stem="linear",
)


class TextbookAttention(nn.Module):
    """Scores, softmax, dropout and weighted values spelled out, with a projection each for query, key and value."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        N, T, D = x.shape
        q = self.query(x).view(N, T, self.heads, D // self.heads).transpose(1, 2)
        k = self.key(x).view(N, T, self.heads, D // self.heads).transpose(1, 2)
        v = self.value(x).view(N, T, self.heads, D // self.heads).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(D // self.heads)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return self.proj(torch.matmul(weights, v).transpose(1, 2).reshape(N, T, D))


class TextbookLayer(nn.Module):
    """Post-norm encoder layer."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = TextbookAttention(width, heads, dropout)
        self.ffn = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.norm_self = nn.LayerNorm(width)
        self.norm_ffn = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_self(x + self.dropout(self.self_attn(x)))
        hidden = self.dropout(nn.functional.gelu(self.ffn["fc1"](x)))
        return self.norm_ffn(x + self.dropout(self.ffn["fc2"](hidden)))


class _PlainViT(nn.Module):
    """Patches, positions and pooling around a stack of layers."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.patches = nn.Linear(3 * config.patch_size**2, config.embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.embed_dim, NUM_CLASSES)
        tokens = (IMAGE_SIZE // config.patch_size) ** 2
        self.positions: Tensor
        self.register_buffer("positions", sinusoidal_positions(tokens, config.embed_dim), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        x = self.dropout(self.patches(patches) + self.positions)
        return self.head(self.encode(x).mean(dim=1))


class TextbookViT(_PlainViT):
    """The obvious code."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        sizes = (config.embed_dim, config.num_heads, config.dim_feedforward, config.dropout)
        self.layers = nn.ModuleList(TextbookLayer(*sizes) for _ in range(config.num_layers))

    def encode(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def copy_weights(self, model: VisionTransformer) -> None:
        """Take over the weights of opsin's model, to compute the same function."""
        self.patches.load_state_dict(model.patch_embed.proj.state_dict())
        self.head.load_state_dict(model.head.state_dict())
        self.layers.load_state_dict(model.transformer.layers.state_dict())


class TorchViT(_PlainViT):
    """The same layers as torch itself provides them."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        layer = nn.TransformerEncoderLayer(
            config.embed_dim, config.num_heads, config.dim_feedforward, config.dropout, "gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def copy_weights(self, model: VisionTransformer) -> None:
        """Take over the weights of opsin's model, to compute the same function."""
        self.patches.load_state_dict(model.patch_embed.proj.state_dict())
        self.head.load_state_dict(model.head.state_dict())
        for own, layer in zip(self.encoder.layers, model.transformer.layers, strict=True):
            state = layer.state_dict()
            renamed = {"self_attn.out_proj": "self_attn.proj", "linear1": "ffn.fc1", "linear2": "ffn.fc2"}
            renamed |= {"norm1": "norm_self", "norm2": "norm_ffn"}
            content = {
                f"{new}.{part}": state[f"{old}.{part}"] for new, old in renamed.items() for part in ("weight", "bias")
            }
            for part in ("weight", "bias"):
                three = [state[f"self_attn.{name}.{part}"] for name in ("query", "key", "value")]
                content[f"self_attn.in_proj_{part}"] = torch.cat(three)
            own.load_state_dict(content)


def timm_vit(config: ViTConfig) -> TimmVisionTransformer:
    """timm's model of the same sizes, without the class token, so that the number of tokens is the same as well."""
    return TimmVisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=config.patch_size,
        num_classes=NUM_CLASSES,
        global_pool="avg",
        class_token=False,
        embed_dim=config.embed_dim,
        depth=config.num_layers,
        num_heads=config.num_heads,
        mlp_ratio=config.dim_feedforward / config.embed_dim,
        pos_drop_rate=config.dropout,
        proj_drop_rate=config.dropout,
        attn_drop_rate=config.dropout,
    )
