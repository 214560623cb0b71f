"""Dual encoder of images and texts: CLIP ("Learning Transferable Visual Models From Natural Language Supervision",
Radford et al. 2021, sections 2.3 to 2.5).

Deviations from the paper: the text transformer is bidirectional and its tokens are averaged, where the paper's is
causal and takes the last token; the image tower is `opsin.nn.vision_transformer`, with a convolutional stem where it
is asked for, and averages its patches; initial weights have a deviation of 0.02 everywhere.

Dimensions: N batch, S side of the images, T tokens of the longest text, D width of a tower, E common width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opsin.nn.dropout import Dropout
from opsin.nn.transformer import TransformerEncoder, TransformerEncoderLayer, initialize_transformer_weights
from opsin.nn.vision_transformer import VisionTransformer

INITIAL_LOGIT_SCALE = 1 / 0.07
LARGEST_LOG_SCALE = math.log(100.0)


class TextTransformer(nn.Module):
    """Texts as vectors: a pre-norm transformer over their tokens, and the mean of what it makes of them."""

    def __init__(
        self,
        vocab_size: int,
        max_length: int = 32,
        embed_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        dim_feedforward: int = 512,
        dropout: float = 0.1,
        *,
        pad_index: int = 0,
    ) -> None:
        """`max_length` is the longest text that can be read, in tokens; `pad_index` is the token that is no part of
        a text, and fills the shorter ones of a batch up."""
        super().__init__()
        self.embed_dim = embed_dim
        self.max_length = max_length
        self.pad_index = pad_index
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=pad_index)
        self.positions = nn.Parameter(torch.empty(1, max_length, embed_dim))
        self.dropout = Dropout(dropout)
        layer = TransformerEncoderLayer(embed_dim, num_heads, dim_feedforward, dropout, pre_norm=True)
        self.transformer = TransformerEncoder(layer, num_layers)
        self.norm = nn.LayerNorm(embed_dim)
        self.apply(initialize_transformer_weights)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (N, T) to (N, D); ValueError for more tokens than `max_length`. Padding changes nothing."""
        if tokens.shape[1] > self.max_length:
            raise ValueError(f"a text of {tokens.shape[1]} tokens, and this model reads {self.max_length}")
        is_text = tokens != self.pad_index
        x_NTD = self.dropout(self.embedding(tokens) + self.positions[:, : tokens.shape[1]])
        x_NTD = self.norm(self.transformer(x_NTD, is_text[:, None, None, :]))
        weights = is_text / is_text.sum(dim=1, keepdim=True).clamp_min(1)
        return (x_NTD * weights[:, :, None].to(x_NTD.dtype)).sum(dim=1)


class DualEncoder(nn.Module):
    """Two towers, and a linear map from each into one space where matching images and texts have a high cosine.

    `logit_scale` is the logarithm of what cosines are multiplied with to become logits, as in the published state
    dicts; `scale` gives the factor itself.
    """

    def __init__(self, image_tower: VisionTransformer, text_tower: TextTransformer, embed_dim: int) -> None:
        """The image tower has no head; `embed_dim` is the width of the common space."""
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_projection = nn.Linear(image_tower.embed_dim, embed_dim, bias=False)
        self.text_projection = nn.Linear(text_tower.embed_dim, embed_dim, bias=False)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_LOGIT_SCALE)))

    def encode_image(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, E), not normalised."""
        return self.image_projection(self.image_tower(images))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """int64 (N, T) to (N, E), not normalised."""
        return self.text_projection(self.text_tower(tokens))

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, E) of images and of texts, and the factor of the logits."""
        return self.encode_image(images), self.encode_text(tokens), self.scale()

    def scale(self) -> Tensor:
        """What cosines are multiplied with: a scalar of at most 100, with the gradient of the exponential also there:
        `clamp` has none at its limit, so that the parameter would never come back from it."""
        excess = (self.logit_scale - LARGEST_LOG_SCALE).clamp(min=0).detach()
        return (self.logit_scale - excess).exp()

    @torch.no_grad()
    def clip_logit_scale(self) -> None:
        """Put the parameter itself back to at most log 100; to be called after each optimiser step, as the paper does,
        or before the next one."""
        self.logit_scale.clamp_(max=LARGEST_LOG_SCALE)


def build_dual_encoder(
    image_size: int, embed_dim: int, image: Mapping[str, Any], text: Mapping[str, Any]
) -> DualEncoder:
    """A freshly initialised model; `image` and `text` are options of `VisionTransformer` and `TextTransformer`.

    The image tower has pre-normalisation and learned positions.
    """
    image_tower = VisionTransformer(img_size=image_size, num_classes=0, norm="pre", positions="learned", **image)
    return DualEncoder(image_tower, TextTransformer(**text), embed_dim)
