"""The head of a fine-tuned classifier: logistic regression, its regularization chosen by cross-validation.

Dimensions: N images, F width of a descriptor, K classes, R rank of the descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.classification.descriptors import Blocks
from opsin.probing.linear_probe import LinearProbe, fit_logistic_regression
from opsin.progress import Progress, working
from opsin.runtime import derive_seed

STRENGTHS = tuple(float(strength) for strength in np.logspace(-2, -5.5, 8))
"""Tried from the strongest to the weakest."""
FOLDS = 5
MOST_ROWS = 5_000
"""Images that the strength is chosen on; more would take minutes and choose the same."""


@dataclass(frozen=True)
class Head:
    """A linear classifier of descriptors, the strength of its regularization, and the accuracy and cross-entropy that
    it had in cross-validation; these are a little too good, since the strength was chosen by them."""

    probe: LinearProbe
    strength: float
    accuracy: float
    loss: float


def fit_head(
    descriptors: Tensor,
    labels: Tensor,
    num_classes: int,
    choices: Sequence[Blocks],
    *,
    groups: np.ndarray | None = None,
    balanced: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Head:
    """Fit to descriptors float32 (N, F) with labels int64 (N,) of at least two classes.

    Blocks of the descriptors are centered, and each is scaled by one factor to the deviation that is its weight. Which
    of the `choices` of weights, and which strength of regularization, is told by the least cross-entropy over `FOLDS`
    folds, which are even in classes; images of one of the `groups` (N,) are in one fold. `balanced` gives every class
    the same weight in the loss.

    Raises DataError for labels of one class, and Cancelled.
    """
    weights = class_weights(labels, num_classes) if balanced else None
    rows = np.random.default_rng(derive_seed(seed, "head")).permutation(len(labels))[:MOST_ROWS]
    folds = fold_numbers(labels.numpy()[rows], None if groups is None else groups[rows], seed)
    parts = [
        (torch.from_numpy(rows[folds != fold]), torch.from_numpy(rows[folds == fold]))
        for fold in range(FOLDS)
        if (folds == fold).any() and len(np.unique(labels.numpy()[rows[folds != fold]])) > 1
    ]
    mean = descriptors.double().mean(dim=0)
    best: tuple[float, float, float, Tensor, tuple[Tensor, Tensor]] | None = None
    with working(progress, "choosing the regularization", len(choices) * len(parts), unit="folds") as advance:
        for blocks in choices:
            scale = _scale(descriptors, blocks)
            # Ridge regularization is the same in any basis, and the weights of its solution are sums of rows.
            rotated, basis = _rotated((descriptors.double() - mean) * scale)
            losses, rights = np.zeros(len(STRENGTHS)), np.zeros(len(STRENGTHS))
            for fitted, held_out in parts:
                probe = None
                for place, strength in enumerate(STRENGTHS):
                    probe = fit_logistic_regression(
                        rotated[fitted], labels[fitted], num_classes, strength, start=probe, class_weights=weights
                    )
                    scores = probe.scores(rotated[held_out])
                    rights[place] += float((scores.argmax(dim=1) == labels[held_out]).sum())
                    losses[place] += float(F.cross_entropy(scores, labels[held_out], weights, reduction="sum"))
                advance(1)
            place = int(losses.argmin())  # the strongest where nothing could be held out
            if best is None or losses[place] < best[0]:
                best = losses[place], rights[place], STRENGTHS[place], scale, (rotated, basis)
    assert best is not None
    loss, right, strength, scale, (rotated, basis) = best
    probe = fit_logistic_regression(rotated, labels, num_classes, strength, class_weights=weights)
    weight = (probe.weight @ basis.T) * scale
    folded = LinearProbe(weight.float(), (probe.bias - weight @ mean).float())
    tested = sum(len(held_out) for _, held_out in parts)
    return Head(folded, strength, right / max(tested, 1), loss / max(tested, 1))


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """float64 (K,): weights in inverse proportion to the images of a class, whose mean over the images is one."""
    counts = torch.bincount(labels, minlength=num_classes).double()
    return len(labels) / ((counts > 0).sum() * counts.clamp(min=1))


def fold_numbers(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """The fold of each image int64 (N,): the groups of each class are dealt out in a random order, one fold after the
    other, and each class goes on where the one before ended."""
    generator = np.random.default_rng(derive_seed(seed, "folds"))
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    folds = np.zeros(len(labels), dtype=np.int64)
    dealt = 0
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        names = generator.permutation(np.unique(groups[own]))
        place = {name: (dealt + position) % FOLDS for position, name in enumerate(names)}
        folds[own] = [place[group] for group in groups[own]]
        dealt += len(names)
    return folds


def _scale(descriptors: Tensor, blocks: Blocks) -> Tensor:
    """float64 (F,)."""
    factors = []
    for block, (width, weight) in zip(
        descriptors.double().split([width for width, _ in blocks], dim=1), blocks, strict=True
    ):
        deviation = float(block.var(dim=0, correction=0).sum().sqrt())
        factors.append(torch.full((width,), weight / max(deviation, 1e-12), dtype=torch.float64))
    return torch.cat(factors)


def _rotated(descriptors: Tensor) -> tuple[Tensor, Tensor]:
    """(N, R) and the orthonormal basis (F, R) that it is in: R is the smaller of N and F."""
    if len(descriptors) >= descriptors.shape[1]:
        return descriptors, torch.eye(descriptors.shape[1], dtype=descriptors.dtype)
    left, values, right = torch.linalg.svd(descriptors, full_matrices=False)
    return left * values, right.T
