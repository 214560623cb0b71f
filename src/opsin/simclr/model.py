"""The network of SimCLR: an encoder, whose features are kept, and a projection head, which only training needs.

"A Simple Framework for Contrastive Learning of Visual Representations" (Chen et al. 2020), section 2.1. Deviation: a
batch norm between the two layers of the head, as in the paper's code and in the course.

Dimensions: N batch, S pixels, D width of the features, E width of the projection.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from opsin.nn.resnet import ResNet
from opsin.nn.vision_transformer import VisionTransformer
from opsin.simclr.config import LARGEST_SMALL_IMAGE, EncoderConfig, SimclrConfig


class ProjectionHead(nn.Sequential):
    """Linear without bias, batch norm, ReLU, Linear: features (N, D) to (N, E)."""

    def __init__(self, feature_dim: int, hidden_dim: int = 512, projection_dim: int = 128) -> None:
        super().__init__(
            nn.Linear(feature_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, projection_dim),
        )


class SimclrModel(nn.Module):
    """Encoder and projection head; any module from images to vectors can be the one, any between vectors the other."""

    def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) to features (N, D) and projections (N, E), all of length one."""
        features = self.encoder(images)
        return F.normalize(features, dim=1), F.normalize(self.projection(features), dim=1)


def build_encoder(config: EncoderConfig, image_size: int) -> ResNet | VisionTransformer:
    """A freshly initialized encoder from images (N, 3, S, S) to features (N, D), with D as its `feature_dim`.

    A Vision Transformer has pre-normalization, learned positions and the mean over its patches.
    """
    if config.name != "vit":
        return ResNet(config.name, small_images=image_size <= LARGEST_SMALL_IMAGE)
    return VisionTransformer(
        image_size,
        config.patch_size,
        embed_dim=config.embed_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dim_feedforward=4 * config.embed_dim,
        num_classes=0,
        dropout=0.0,
        norm="pre",
        positions="learned",
    )


def build_model(config: SimclrConfig) -> SimclrModel:
    """The network of a run, freshly initialised."""
    encoder = build_encoder(config.encoder, config.image_size)
    return SimclrModel(encoder, ProjectionHead(encoder.feature_dim, config.projection_hidden, config.projection_dim))
