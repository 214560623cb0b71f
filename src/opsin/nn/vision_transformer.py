"""Vision Transformer ("An Image is Worth 16x16 Words", Dosovitskiy et al. 2021).

Deviations from the paper, which are the defaults here: post-normalisation without a final norm, fixed sinusoidal
positions, and the mean over patch tokens instead of a class token. The paper's own choices (`norm="pre"`,
`positions="learned"`, `pool="class_token"`) and a convolutional stem are options.

Dimensions: N batch, C channels, P patches, T tokens (P, or P + 1 with a class token), H heads, D width, K classes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from opsin.nn.embeddings import (
    ConvStem,
    LearnedPositions,
    PatchEmbedding,
    PositionalEncoding,
    interpolate_positions,
)
from opsin.nn.transformer import TransformerEncoder, TransformerEncoderLayer, initialize_transformer_weights
from opsin.runtime import evaluating

Norm = Literal["post", "pre"]
Pool = Literal["mean", "class_token"]
Positions = Literal["sinusoidal", "learned"]
Stem = Literal["linear", "conv"]


class VisionTransformer(nn.Module):
    """Image classifier; `num_classes=0` leaves the head out and returns features."""

    def __init__(
        self,
        img_size: int = 32,
        patch_size: int = 8,
        in_channels: int = 3,
        embed_dim: int = 128,
        num_layers: int = 6,
        num_heads: int = 4,
        dim_feedforward: int = 256,
        num_classes: int = 10,
        dropout: float = 0.1,
        *,
        norm: Norm = "post",
        pool: Pool = "mean",
        positions: Positions = "sinusoidal",
        stem: Stem = "linear",
    ) -> None:
        super().__init__()
        options = {
            "norm": (norm, Norm),
            "pool": (pool, Pool),
            "positions": (positions, Positions),
            "stem": (stem, Stem),
        }
        for name, (value, kind) in options.items():
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")
        self.pool = pool
        self.feature_dim = self.embed_dim = embed_dim
        stem_class = ConvStem if stem == "conv" else PatchEmbedding
        self.patch_embed = stem_class(img_size, patch_size, in_channels, embed_dim)
        self.patch_size = patch_size
        self.grid_size = self.patch_embed.grid_size
        num_tokens = self.grid_size**2 + (pool == "class_token")
        self.positional_encoding: LearnedPositions | PositionalEncoding
        if positions == "learned":
            self.positional_encoding = LearnedPositions(embed_dim, num_tokens, dropout)
        else:
            self.positional_encoding = PositionalEncoding(embed_dim, dropout, max_len=max(5000, num_tokens))
        layer = TransformerEncoderLayer(embed_dim, num_heads, dim_feedforward, dropout, pre_norm=norm == "pre")
        self.transformer = TransformerEncoder(layer, num_layers)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if pool == "class_token" else None
        self.norm = nn.LayerNorm(embed_dim) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.apply(initialize_transformer_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, img_size, img_size) to scores (N, K), or to features (N, D) without a head."""
        return self.head(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Images (N, C, img_size, img_size) to one vector each, (N, D), which the head gets."""
        tokens = self.forward_features(images)
        return tokens[:, 0] if self.class_token is not None else tokens.mean(dim=1)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (N, C, img_size, img_size) to the final tokens (N, T, D), the class token first if there is one."""
        return self.norm(self.transformer(self._embed(images)))

    def patch_tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (N, C, H, W) to the final tokens of their patches (N, P, D), without the class token, and the grid
        (rows, columns) of the patches.

        The sides are multiples of the patch size. Where they are others than img_size, positions are interpolated.
        """
        prefix = int(self.class_token is not None)
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        tokens = self.patch_embed.tokens(images)
        if grid == (self.grid_size, self.grid_size):
            tokens = self.positional_encoding(self._with_class_token(tokens))
        else:
            table = self.positional_encoding.table(prefix + self.grid_size**2)
            tokens = self._with_class_token(tokens) + interpolate_positions(table, prefix, grid)
        return self.norm(self.transformer(tokens))[:, prefix:], grid

    @torch.no_grad()
    def attention_weights(self, images: Tensor) -> Tensor:
        """Self-attention weights of every layer, (N, num_layers, H, T, T); rows are queries and sum to one.

        They are those of eval mode, whatever mode the model is in: looking does not move the statistics of a stem.
        """
        with evaluating(self):
            tokens = self._embed(images)
            weights = []
            for layer in self.transformer.layers:
                assert isinstance(layer, TransformerEncoderLayer)
                weights.append(layer.attention_weights(tokens))
                tokens = layer(tokens)
            return torch.stack(weights, dim=1)

    def _embed(self, images: Tensor) -> Tensor:
        return self.positional_encoding(self._with_class_token(self.patch_embed(images)))

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        if self.class_token is None:
            return tokens
        return torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
