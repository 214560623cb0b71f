"""Linear classifiers on the features of a frozen encoder: how well its classes can be told apart by planes.

L2-regularized logistic regression has one answer for given features, the one that scikit-learn's LogisticRegression
has; its strength is chosen on validation data, as by Kornblith et al. 2019 ("Do Better ImageNet Models Transfer
Better?"), whose protocol SimCLR uses. Deviations: 13 strengths instead of 45, and features are standardized.

Dimensions: N images, D width of the features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.counts import agree, number_of
from opsin.errors import ConfigError, DataError

STRENGTHS = tuple(float(strength) for strength in np.logspace(1, -5, 13))
"""Tried from the strongest to the weakest, each one starting where the one before ended."""
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier: `weight` (K, D), `bias` (K,)."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(N, D) to (N, K)."""
        return F.linear(features, self.weight, self.bias)


@dataclass(frozen=True)
class Standardisation:
    """Shifts and scales each feature, so that one strength of regularisation suits all of them."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


def standardisation(features: Tensor) -> Standardisation:
    """Which gives these features (N, D) the mean zero and the deviation one; a constant feature becomes zero."""
    deviation = features.std(dim=0, correction=0)
    constant = deviation < SMALLEST_DEVIATION
    return Standardisation(features.mean(dim=0), deviation.masked_fill(constant, 1.0))


def labelled_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of about `fraction` of the labels int64 (N,), evenly from every class and at least one of each.

    The same seed gives the same rows, in an order in which those of a smaller fraction come first (but for classes so
    rare that it has only the one that it must have). Raises ConfigError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the share of the labels must be above 0 and at most 1, not {fraction}")
    generator = np.random.default_rng(seed)
    taken, positions = [], []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, math.floor(fraction * len(rows) + 0.5))
        taken.append(rows[:count])
        positions.append((np.arange(count) + 0.5) / len(rows))
    return np.concatenate(taken)[np.argsort(np.concatenate(positions), kind="stable")]


def fit_logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strength: float,
    start: LinearProbe | None = None,
    class_weights: Tensor | None = None,
) -> LinearProbe:
    """The least of: mean cross-entropy + strength / 2 * squared norm of the weights; the biases are free.

    `features` (N, D) on any device, in the precision to compute in, `labels` int64 (N,). scikit-learn's `C` is
    1 / (strength * N), and twice that for two classes, for which it has one vector of weights instead of two. `start`
    is where to begin, for speed only; `class_weights` (K,) are factors on the cross-entropy of the images of a class.
    Raises DataError for labels of one class only.
    """
    if len(labels.unique()) < 2:
        raise DataError("the labels of a linear probe must be of at least two classes")
    begin = start or LinearProbe(features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes))
    weight, bias = (tensor.clone().requires_grad_() for tensor in (begin.weight, begin.bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=1000, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = strength / 2 * weight.square().sum()
        loss = loss + F.cross_entropy(F.linear(features, weight, bias), labels, class_weights)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(weight.detach(), bias.detach())


@dataclass(frozen=True)
class ChosenProbe:
    """A logistic regression, the strength that it has, and the accuracy that every strength had on validation."""

    probe: LinearProbe
    strength: float
    accuracies: dict[float, float]


def choose_logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    held_out: Tensor,
    strengths: Sequence[float] = STRENGTHS,
) -> ChosenProbe:
    """Fit with each strength to what is not held out, and with the best one to everything.

    `held_out` bool (N,) marks the validation data, some of the features (N, D) and some not. The best strength has the
    highest accuracy on it, and among equals it is the strongest. Raises DataError when either part is empty.
    """
    if not held_out.any() or held_out.all():
        raise DataError(
            f"{number_of(len(labels), 'labelled image')} {agree(len(labels), 'is', 'are')} too few to choose "
            "the regularisation of a linear probe on some of "
            "them; it takes at least two of some class"
        )
    fitted, validation = features[~held_out], features[held_out]
    accuracies, starts = {}, {}
    probe = None
    for strength in sorted(strengths, reverse=True):
        probe = fit_logistic_regression(fitted, labels[~held_out], num_classes, strength, start=probe)
        accuracies[strength] = accuracy(probe.scores(validation), labels[held_out])
        starts[strength] = probe
    best = max(accuracies, key=lambda strength: (accuracies[strength], strength))
    return ChosenProbe(
        fit_logistic_regression(features, labels, num_classes, best, start=starts[best]), best, accuracies
    )


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """The share of rows of scores (N, K) whose highest one is that of the label (N,)."""
    return float((scores.argmax(dim=1) == labels).float().mean())
