"""Dropout, and multi-head scaled dot-product attention ("Attention Is All You Need", Vaswani et al. 2017, section 3.2).

Deviation from the paper: dropout acts on the attention weights, and every projection has a bias.

Dropout is that of "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (Srivastava et al. 2014).

Dimensions: N batch, T query length, S key length, H heads, D width, d = D / H width of one head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST_PLAIN_BF16 = 256


class KeysValues(NamedTuple):
    """Projected keys and values, each (N, H, S, d): what `MultiHeadAttention.attend` needs of the tokens looked at."""

    keys: Tensor
    values: Tensor


class MultiHeadAttention(nn.Module):
    """Attention from `query` to `key`/`value`; self-attention when all three are the same tensor.

    Two code paths give the same result. The fused kernel (`F.scaled_dot_product_attention`) is the rule. On a CPU the
    weights are computed plainly in two cases: with dropout active, which the published reference values need to come
    from an ordinary Dropout layer; and for short sequences in bfloat16, where torch's fused CPU kernel is the slower
    one (3 to 8 times in training at 64 tokens; `bench/attention.py` measures it).
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.1) -> None:
        """`embed_dim` must be divisible by `num_heads`; `dropout` is the probability of zeroing a weight."""
        super().__init__()
        if isinstance(num_heads, bool) or embed_dim % num_heads != 0:
            raise ValueError(f"embed_dim ({embed_dim}) must be divisible by num_heads ({num_heads})")
        self.num_heads = num_heads
        self.key = nn.Linear(embed_dim, embed_dim)
        self.query = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (N, T, D) float.
            key: (N, S, D) float.
            value: (N, S, D) float.
            attn_mask: bool or 0/1, broadcastable to (N, H, T, S); True (1) where a query may attend to a key. A
                query that may attend to nothing gets the output of all-zero weights, never NaN.

        Returns: (N, T, D).
        """
        q_NHTd, k_NHSd, v_NHSd = self._project(query, key, value)
        return self._attend(q_NHTd, k_NHSd, v_NHSd, _boolean(attn_mask))

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Keys and values of tokens (N, S, D), for `attend`.

        Those of a head are laid out in one piece here, as every matrix product with them would otherwise copy them.
        """
        keys, values = self._split_heads(self.key(tokens)), self._split_heads(self.value(tokens))
        return KeysValues(keys.contiguous(), values.contiguous())

    def attend(self, query: Tensor, memory: KeysValues) -> Tensor:
        """What `forward` gives for queries (N, T, D) without a mask, from keys and values that are known already."""
        return self._attend(self._split_heads(self.query(query)), *memory, mask=None)

    def attention_weights(self, query: Tensor, key: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """The weights (N, H, T, S) that `forward` uses for these inputs, before dropout; rows sum to one.

        They are computed here from query and key, on request, so that `forward` can always take the fast path.
        """
        q_NHTd, k_NHSd = self._split_heads(self.query(query)), self._split_heads(self.key(key))
        return attention_probabilities(q_NHTd, k_NHSd, _boolean(attn_mask))

    def _attend(self, q_NHTd: Tensor, k_NHSd: Tensor, v_NHSd: Tensor, mask: Tensor | None) -> Tensor:
        dropping = self.training and self.dropout.p > 0
        if _plain_is_better(k_NHSd, dropping):
            weights_NHTS = self.dropout(attention_probabilities(q_NHTd, k_NHSd, mask))
            heads_NHTd = weights_NHTS @ v_NHSd
        else:
            heads_NHTd = _fused_attention(q_NHTd, k_NHSd, v_NHSd, mask, self.dropout.p if dropping else 0.0)
        return self.proj(heads_NHTd.transpose(1, 2).flatten(2))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if query is key and key is value:  # self-attention: one large matrix product is faster than three
            weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
            bias = torch.cat([self.query.bias, self.key.bias, self.value.bias])
            q, k, v = F.linear(query, weight, bias).chunk(3, dim=-1)
        else:
            q, k, v = self.query(query), self.key(key), self.value(value)
        return self._split_heads(q), self._split_heads(k), self._split_heads(v)

    def _split_heads(self, x_NTD: Tensor) -> Tensor:
        return x_NTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, H, T, d)


def _boolean(mask: Tensor | None) -> Tensor | None:
    """A mask of at least two dimensions, which the fused kernel asks for."""
    return None if mask is None else torch.atleast_2d(mask.bool())


def attention_probabilities(q_NHTd: Tensor, k_NHSd: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d) over the keys that `mask` allows, (N, H, T, S); a row without any allowed key is zero."""
    scores_NHTS = (q_NHTd @ k_NHSd.transpose(-2, -1)) / math.sqrt(q_NHTd.shape[-1])
    if mask is None:
        return scores_NHTS.softmax(dim=-1)
    weights_NHTS = scores_NHTS.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return weights_NHTS.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)


def _plain_is_better(k_NHSd: Tensor, dropping: bool) -> bool:
    short_bf16 = k_NHSd.dtype == torch.bfloat16 and k_NHSd.shape[-2] <= LONGEST_PLAIN_BF16
    return k_NHSd.device.type == "cpu" and (dropping or short_bf16)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    attends = mask.any(dim=-1, keepdim=True)
    # A fully masked row is opened for the kernel, which would give NaN (or not, by backend), and zeroed afterwards.
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~attends, dropout_p=dropout)
    return heads.masked_fill(~attends, 0.0)


LEVELS = 2**16


class Dropout(nn.Dropout):
    """torch's Dropout, but faster for bfloat16 on a CPU.

    There torch draws a number for each element, one after the other, which takes a quarter of a training step of a
    small Vision Transformer (`bench/vit_training.py`). Here four elements share one draw of 64 bits, so `p` is rounded
    to a multiple of 1/65536. Everywhere else this is torch's own layer, with its stream of random numbers.
    """

    def __init__(self, p: float = 0.5) -> None:
        """`p` is the probability of zeroing an element."""
        if not 0 <= p <= 1:  # torch's own check admits NaN
            raise ValueError(f"the probability of dropout must be in 0 to 1, not {p}")
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        """Zero each element with probability `p` and scale the others by 1/(1-p), in training mode only."""
        dropped_levels = round(self.p * LEVELS)
        fast = input.dtype == torch.bfloat16 and input.device.type == "cpu" and 0 < dropped_levels < LEVELS
        if not (self.training and fast):
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = draws.view(torch.int16)[: input.numel()].view(input.shape)  # uniform from -32768 to 32767
        kept = levels >= dropped_levels - LEVELS // 2
        return input * kept.to(input.dtype).mul_(LEVELS / (LEVELS - dropped_levels))
