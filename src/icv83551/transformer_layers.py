"""Transformer layers under the course's path; the notebooks rely on the star import for `torch` and `nn` as well."""

import torch
from torch import nn

from opsin.nn.attention import MultiHeadAttention
from opsin.nn.embeddings import PatchEmbedding, PositionalEncoding
from opsin.nn.transformer import FeedForwardNetwork, TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "FeedForwardNetwork",
    "MultiHeadAttention",
    "PatchEmbedding",
    "PositionalEncoding",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "nn",
    "torch",
]
