"""Transformer encoder and decoder layers ("Attention Is All You Need", Vaswani et al. 2017, section 3.1).

Deviations from the paper: exact GELU instead of ReLU, and, as an option, pre-normalisation ("On Layer Normalization
in the Transformer Architecture", Xiong et al. 2020) instead of the paper's post-normalisation.

Dimensions: N batch, T sequence length, S memory length, R sequences decoded at once, H heads, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opsin.nn.attention import Dropout, KeysValues, MultiHeadAttention


class FeedForwardNetwork(nn.Module):
    """fc1, GELU, dropout, fc2, applied to each token alone."""

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.gelu = nn.GELU()
        self.dropout = Dropout(dropout)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        return self.fc2(self.dropout(self.gelu(self.fc1(x))))


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with residual, dropout and layer norm."""

    def __init__(
        self,
        input_dim: int,
        num_heads: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        *,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiHeadAttention(input_dim, num_heads, dropout)
        self.ffn = FeedForwardNetwork(input_dim, dim_feedforward, dropout)
        self.norm_self = nn.LayerNorm(input_dim)
        self.norm_ffn = nn.LayerNorm(input_dim)
        self.dropout_self = Dropout(dropout)
        self.dropout_ffn = Dropout(dropout)

    def forward(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """(N, T, D) to (N, T, D); `src_mask` as in MultiHeadAttention."""
        if self.pre_norm:
            x = self.norm_self(src)
            src = src + self.dropout_self(self.self_attn(query=x, key=x, value=x, attn_mask=src_mask))
            return src + self.dropout_ffn(self.ffn(self.norm_ffn(src)))
        attended = self.self_attn(query=src, key=src, value=src, attn_mask=src_mask)
        src = self.norm_self(src + self.dropout_self(attended))
        return self.norm_ffn(src + self.dropout_ffn(self.ffn(src)))

    def attention_weights(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """The self-attention weights (N, H, T, T) that `forward` uses for this input, before dropout."""
        x = self.norm_self(src) if self.pre_norm else src
        return self.self_attn.attention_weights(x, x, src_mask)


Attention = Callable[[Tensor], Tensor]
"""Gives what queries (N, T, D) found, (N, T, D)."""


@dataclass
class LayerCache:
    """What a decoder layer keeps between tokens: keys and values of the tokens so far, and of the memory."""

    memory: KeysValues
    past: KeysValues | None = None

    def append(self, new: KeysValues) -> KeysValues:
        """Take in the keys and values of one more token a sequence; returns those of all tokens so far."""
        if self.past is None:
            self.past = new
        else:
            keys = torch.cat([self.past.keys, new.keys], dim=2)
            self.past = KeysValues(keys, torch.cat([self.past.values, new.values], dim=2))
        return self.past

    def reorder(self, rows: Tensor) -> None:
        """Let sequence i go on from the past of sequence `rows[i]`, which must have the same memory."""
        if self.past is not None:
            self.past = KeysValues(self.past.keys[rows], self.past.values[rows])


class TransformerDecoderLayer(nn.Module):
    """Masked self-attention, attention to a memory, and a feed-forward network, each with residual and layer norm."""

    def __init__(
        self,
        input_dim: int,
        num_heads: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        *,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiHeadAttention(input_dim, num_heads, dropout)
        self.cross_attn = MultiHeadAttention(input_dim, num_heads, dropout)
        self.ffn = FeedForwardNetwork(input_dim, dim_feedforward, dropout)
        self.norm_self = nn.LayerNorm(input_dim)
        self.norm_cross = nn.LayerNorm(input_dim)
        self.norm_ffn = nn.LayerNorm(input_dim)
        self.dropout_self = Dropout(dropout)
        self.dropout_cross = Dropout(dropout)
        self.dropout_ffn = Dropout(dropout)

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None) -> Tensor:
        """tgt (N, T, D) and memory (N, S, D) to (N, T, D); `tgt_mask` applies to the self-attention only."""

        def look_back(x: Tensor) -> Tensor:
            return self.self_attn(query=x, key=x, value=x, attn_mask=tgt_mask)

        def look_at_memory(x: Tensor) -> Tensor:
            return self.cross_attn(query=x, key=memory, value=memory)

        return self._run(tgt, look_back, look_at_memory)

    def start(self, memory: Tensor) -> LayerCache:
        """The cache for decoding token by token with a memory (N, S, D), whose keys and values are computed here."""
        return LayerCache(self.cross_attn.keys_values(memory))

    def step(self, tgt: Tensor, cache: LayerCache) -> Tensor:
        """One more token (R, 1, D) of each sequence to (R, 1, D); the cache takes in its keys and values.

        It equals the last token of `forward` over the whole sequence with a causal mask. R is N, or a multiple of it
        when several sequences in a row share a memory, as the beams of one image do.
        """

        def look_back(x: Tensor) -> Tensor:
            return self.self_attn.attend(x, cache.append(self.self_attn.keys_values(x)))

        def look_at_memory(x: Tensor) -> Tensor:
            # Sequences that share a memory are queries of one attention: the memory is never copied for them.
            grouped = x.reshape(len(cache.memory.keys), -1, x.shape[-1])
            return self.cross_attn.attend(grouped, cache.memory).reshape(x.shape)

        return self._run(tgt, look_back, look_at_memory)

    def forward_with_weights(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the weights (N, H, T, S) with which its tokens look at the memory."""
        weights: list[Tensor] = []

        def look_back(x: Tensor) -> Tensor:
            return self.self_attn(query=x, key=x, value=x, attn_mask=tgt_mask)

        def look_at_memory(x: Tensor) -> Tensor:
            weights.append(self.cross_attn.attention_weights(x, memory))
            return self.cross_attn(query=x, key=memory, value=memory)

        return self._run(tgt, look_back, look_at_memory), weights[0]

    def _run(self, tgt: Tensor, look_back: Attention, look_at_memory: Attention) -> Tensor:
        if self.pre_norm:
            tgt = tgt + self.dropout_self(look_back(self.norm_self(tgt)))
            tgt = tgt + self.dropout_cross(look_at_memory(self.norm_cross(tgt)))
            return tgt + self.dropout_ffn(self.ffn(self.norm_ffn(tgt)))
        tgt = self.norm_self(tgt + self.dropout_self(look_back(tgt)))
        tgt = self.norm_cross(tgt + self.dropout_cross(look_at_memory(tgt)))
        return self.norm_ffn(tgt + self.dropout_ffn(self.ffn(tgt)))


class TransformerEncoder(nn.Module):
    """`num_layers` deep copies of one encoder layer, so all start with the same weights until initialised."""

    def __init__(self, layer: TransformerEncoderLayer, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """(N, T, D) to (N, T, D)."""
        for layer in self.layers:
            src = layer(src, src_mask)
        return src


@dataclass
class DecoderCache:
    """What a decoder keeps between tokens; `TransformerDecoder.start` makes it, `step` extends it."""

    layers: list[LayerCache]
    length: int = 0
    """Tokens taken in so far."""

    def reorder(self, rows: Tensor) -> None:
        """Let sequence i go on from the past of sequence `rows[i]`, which must have the same memory."""
        for layer in self.layers:
            layer.reorder(rows)


class TransformerDecoder(nn.Module):
    """`num_layers` deep copies of one decoder layer."""

    def __init__(self, layer: TransformerDecoderLayer, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None) -> Tensor:
        """tgt (N, T, D) and memory (N, S, D) to (N, T, D)."""
        for layer in self.layers:
            tgt = layer(tgt, memory, tgt_mask)
        return tgt

    def start(self, memory: Tensor) -> DecoderCache:
        """The cache with which `step` decodes sequences for a memory (N, S, D)."""
        return DecoderCache([layer.start(memory) for layer in self._typed_layers()])

    def step(self, tgt: Tensor, cache: DecoderCache) -> Tensor:
        """One more token (R, 1, D) of each sequence to (R, 1, D); see `TransformerDecoderLayer.step`."""
        for layer, layer_cache in zip(self._typed_layers(), cache.layers, strict=True):
            tgt = layer.step(tgt, layer_cache)
        cache.length += 1
        return tgt

    def memory_weights(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None) -> Tensor:
        """The weights (N, num_layers, H, T, S) with which each token looks at the memory in `forward`."""
        weights = []
        for layer in self._typed_layers():
            tgt, layer_weights = layer.forward_with_weights(tgt, memory, tgt_mask)
            weights.append(layer_weights)
        return torch.stack(weights, dim=1)

    def _typed_layers(self) -> list[TransformerDecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, TransformerDecoderLayer)]


def initialize_transformer_weights(module: nn.Module) -> None:
    """For `nn.Module.apply`: normal weights of deviation 0.02, zero biases, identity layer norms."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
