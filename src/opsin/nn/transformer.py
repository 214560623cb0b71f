"""Transformer encoder and decoder layers ("Attention Is All You Need", Vaswani et al. 2017, section 3.1).

Deviations from the paper: exact GELU instead of ReLU, and, as an option, pre-normalisation ("On Layer Normalization
in the Transformer Architecture", Xiong et al. 2020) instead of the paper's post-normalisation.

Dimensions: N batch, T sequence length, S memory length, D width.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from opsin.nn.attention import MultiHeadAttention
from opsin.nn.dropout import Dropout


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
        if self.pre_norm:
            x = self.norm_self(tgt)
            tgt = tgt + self.dropout_self(self.self_attn(query=x, key=x, value=x, attn_mask=tgt_mask))
            x = self.norm_cross(tgt)
            tgt = tgt + self.dropout_cross(self.cross_attn(query=x, key=memory, value=memory))
            return tgt + self.dropout_ffn(self.ffn(self.norm_ffn(tgt)))
        attended = self.self_attn(query=tgt, key=tgt, value=tgt, attn_mask=tgt_mask)
        tgt = self.norm_self(tgt + self.dropout_self(attended))
        attended = self.cross_attn(query=tgt, key=memory, value=memory)
        tgt = self.norm_cross(tgt + self.dropout_cross(attended))
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


def initialize_transformer_weights(module: nn.Module) -> None:
    """For `nn.Module.apply`: normal weights of deviation 0.02, zero biases, identity layer norms."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
