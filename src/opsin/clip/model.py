"""Dual encoder of images and texts: CLIP ("Learning Transferable Visual Models From Natural Language Supervision",
Radford et al. 2021, sections 2.3 to 2.5).

With a locked image encoder it is LiT ("LiT: Zero-Shot Transfer with Locked-image Text Tuning", Zhai et al. 2022): what
the encoder gives takes the place of images, and only a linear map of it is learned.

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
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.encoders.features import signed_root
from opsin.nn.attention import Dropout
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


class BagOfWords(nn.Module):
    """Texts as vectors: the mean of their tokens' vectors, in any order, each with a weight of its own."""

    def __init__(self, vocab_size: int, max_length: int = 32, embed_dim: int = 256, *, pad_index: int = 0) -> None:
        """See `TextTransformer`."""
        super().__init__()
        self.embed_dim = embed_dim
        self.max_length = max_length
        self.pad_index = pad_index
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=pad_index)
        self.importance = nn.Embedding(vocab_size, 1, padding_idx=pad_index)
        nn.init.zeros_(self.importance.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (N, T) to (N, D)."""
        is_text = tokens != self.pad_index
        weights = is_text * F.softplus(self.importance(tokens)[:, :, 0])
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-6)
        return (self.embedding(tokens) * weights[:, :, None]).sum(dim=1)


class LockedTower(nn.Module):
    """What stands for images: vectors of an encoder that is not trained, power normalized and standardized."""

    def __init__(self, embed_dim: int, dropout: float = 0.0) -> None:
        """`embed_dim` is the width of the encoder's vectors; see `standardize`."""
        super().__init__()
        self.embed_dim = embed_dim
        self.dropout = Dropout(dropout)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("deviation", torch.ones(embed_dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) to (N, D); the vectors are those of `encode_image` without normalization."""
        standard: Tensor = self.dropout((signed_root(vectors) - self.mean) / self.deviation)
        return standard

    def standardize(self, vectors: Tensor) -> None:
        """Take mean and deviation of each number from vectors (N, D) of training images."""
        powers = signed_root(vectors.float())
        self.mean.copy_(powers.mean(dim=0))
        self.deviation.copy_(powers.std(dim=0, correction=0).clamp_min(1e-3))


class DualEncoder(nn.Module):
    """Two towers, and a linear map from each into one space where matching images and texts have a high cosine.

    `logit_scale` is the logarithm of what cosines are multiplied with to become logits, as in the published state
    dicts; `scale` gives the factor itself.
    """

    def __init__(
        self, image_tower: VisionTransformer | LockedTower, text_tower: TextTransformer | BagOfWords, embed_dim: int
    ) -> None:
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
        """(N, 3, S, S), or for a locked tower the encoder's vectors (N, D), to (N, E), not normalised."""
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
    image_size: int, embed_dim: int, image: Mapping[str, Any], text: Mapping[str, Any], locked_dim: int | None = None
) -> DualEncoder:
    """A freshly initialised model; `image` and `text` are options of `VisionTransformer` and `TextTransformer`, the
    latter with the `kind` of the text tower among them.

    The image tower has pre-normalisation and learned positions, or is locked, for vectors of the width `locked_dim`.
    """
    options = dict(text)
    text_tower: TextTransformer | BagOfWords
    if options.pop("kind", "transformer") == "words":
        text_tower = BagOfWords(options["vocab_size"], options["max_length"], options["embed_dim"])
    else:
        text_tower = TextTransformer(**options)
    if locked_dim is not None:
        return DualEncoder(LockedTower(locked_dim, image["dropout"]), text_tower, embed_dim)
    image_tower = VisionTransformer(img_size=image_size, num_classes=0, norm="pre", positions="learned", **image)
    return DualEncoder(image_tower, text_tower, embed_dim)
