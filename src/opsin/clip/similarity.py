"""How alike texts and images are: the cosine of the angle between their features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(text_features: Tensor, image_features: Tensor) -> Tensor:
    """Cosines (N, M) in [-1, 1] of every text (N, D) with every image (M, D), float32, or float64 where they are.

    A vector of zeros has no direction: its cosines are 0. Raises ValueError for features of other shapes.
    """
    shapes = f"{tuple(text_features.shape)} and {tuple(image_features.shape)}"
    if text_features.ndim != 2 or image_features.ndim != 2 or text_features.shape[1] != image_features.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D) with the same D, not {shapes}")
    return _unit(text_features) @ _unit(image_features).T


def _unit(features: Tensor) -> Tensor:
    """Rows of length one. They are scaled before they are squared, which else could overflow or vanish."""
    if features.dtype != torch.float64:
        features = features.float()
    if features.numel() == 0:
        return features
    largest = features.detach().abs().amax(dim=1, keepdim=True)
    return F.normalize(features / largest.clamp_min(torch.finfo(features.dtype).tiny), dim=1)
