"""The network under the course's path; its state-dict keys are those of the course's checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.nn.resnet import ResNet
from opsin.simclr.model import ProjectionHead

__all__ = ["Model"]


class Model(nn.Module):
    """Images (N, 3, H, W) to features (N, 2048) and projections (N, feature_dim), all of length one.

    `f` is a ResNet-50 with the stem for small images, numbered 0 to 7, whose result is (N, 2048, 1, 1); `g` is the
    projection head.
    """

    def __init__(self, feature_dim: int = 128) -> None:
        super().__init__()
        encoder = ResNet("resnet50", small_images=True)
        *parts, _flatten = encoder
        self.f = nn.Sequential(*parts)
        self.g = ProjectionHead(encoder.feature_dim, projection_dim=feature_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = torch.flatten(self.f(x), start_dim=1)
        return F.normalize(feature, dim=-1), F.normalize(self.g(feature), dim=-1)
