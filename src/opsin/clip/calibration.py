"""Probabilities that mean what they say: one scale on cosines, fitted to labelled images.

"On Calibration of Modern Neural Networks", Guo et al. 2017: temperature scaling (section 4.2). The logit scale here is
the inverse of their temperature; `opsin.training.metrics` has their calibration error.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_SCALE, LARGEST_SCALE = 1e-2, 1e3
NEAR_LIMIT = 1.01
GOLDEN = (math.sqrt(5) - 1) / 2


def fit_logit_scale(cosines: Tensor, labels: Tensor) -> float:
    """The scale in [0.01, 1000] at which softmax(scale * cosines (N, K)) has the lowest mean cross-entropy with int64
    labels (N,).

    The loss is convex in the scale, so golden-section search on its logarithm finds the one minimum. Images that are
    all classified right have none: the result is then the largest scale.
    """
    if len(labels) == 0:
        raise ValueError("a logit scale cannot be fitted to no images")
    scores = cosines.double()

    def loss(log_scale: float) -> float:
        return float(F.cross_entropy(scores * math.exp(log_scale), labels))

    low, high = math.log(SMALLEST_SCALE), math.log(LARGEST_SCALE)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    losses = loss(left), loss(right)
    while high - low > 1e-6:
        if losses[0] < losses[1]:
            high, right = right, left
            left = high - GOLDEN * (high - low)
            losses = loss(left), losses[0]
        else:
            low, left = left, right
            right = low + GOLDEN * (high - low)
            losses = losses[1], loss(right)
    return math.exp((low + high) / 2)


def is_fitted(scale: float) -> bool:
    """Whether images decide a scale that `fit_logit_scale` found, which they do not at either of its limits."""
    return SMALLEST_SCALE * NEAR_LIMIT < scale < LARGEST_SCALE / NEAR_LIMIT


def cross_fitted_probabilities(cosines: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Probabilities (N, K) of each half of the images at the scale that fits the other half: what calibration gives on
    images that it has not seen. At least two images are needed."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    probabilities = torch.empty_like(cosines)
    halves = order[::2], order[1::2]
    for own, other in (halves, halves[::-1]):
        probabilities[own] = (fit_logit_scale(cosines[other], labels[other]) * cosines[own]).softmax(dim=1)
    return probabilities
