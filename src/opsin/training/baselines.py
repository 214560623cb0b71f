"""A score beside its baseline: what is reached without having learned anything."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

STANDARD_ERRORS = 2.0
"""By how many standard errors a score must be above its baseline: chance alone reaches that once in forty times."""
UNTRAINED = "the same network untrained"
FEWEST_PAIRS = 10
"""Paired images that a measured standard error needs: of two, chance exceeds twice the error in 15 of 100 cases."""


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """A score, where more is better unless `lower_is_better`, and the baseline that it has to beat.

    `standard_error` is that of their difference over `count` images, or other units; `advice` says what to do where
    the score is no better. Of fewer than `fewest` it never counts as better.
    """

    metric: str
    score: float
    baseline: str
    value: float
    standard_error: float
    count: int
    advice: str
    unit: str = "images"
    fewest: int = 1
    lower_is_better: bool = False

    @property
    def is_better(self) -> bool:
        """Whether the score is better than the baseline by more than chance explains."""
        gain = self.value - self.score if self.lower_is_better else self.score - self.value
        return self.count >= self.fewest and gain > 0 and gain >= STANDARD_ERRORS * self.standard_error

    @property
    def sentence(self) -> str:
        """The comparison in words, with the advice where the score is no better."""
        error = f"standard error {self.standard_error:.2g} over {self.count:,} {self.unit}"
        relation = "below" if self.lower_is_better else "above"
        if self.is_better:
            return f"{self.metric} {self.score:.3g} is {relation} {self.baseline} ({self.value:.3g}; {error})"
        return (
            f"{self.metric} {self.score:.3g} is not clearly {relation} {self.baseline} ({self.value:.3g}; {error}); "
            f"{self.advice}"
        )

    def document(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        content = asdict(self)
        del content["fewest"]
        return {**content, "is_better": self.is_better, "sentence": self.sentence}


def compare_accuracy(accuracy: float, labels: np.ndarray, advice: str) -> tuple[BaselineComparison, ...]:
    """Accuracy on images of these labels int64 (N,) beside always guessing the largest of their classes.

    Images of one class only have no such comparison: guessing always hits them. Labels below zero count as none.
    """
    counts = np.bincount(labels[labels >= 0])
    if np.count_nonzero(counts) < 2:
        return ()
    largest = float(counts.max() / counts.sum())
    name = "always guessing the largest class"
    return (compare_share("accuracy", accuracy, name, largest, int(counts.sum()), advice),)


def compare_share(
    metric: str, score: float, baseline: str, value: float, count: int, advice: str, unit: str = "images"
) -> BaselineComparison:
    """A share of `count` samples beside the share `value` that is known exactly; the error is binomial."""
    return BaselineComparison(
        metric=metric,
        score=score,
        baseline=baseline,
        value=value,
        standard_error=math.sqrt(value * (1 - value) / count),
        count=count,
        advice=advice,
        unit=unit,
    )


def compare_paired(
    metric: str, scores: np.ndarray, baseline: str, values: np.ndarray, advice: str, *, lower_is_better: bool = False
) -> tuple[BaselineComparison, ...]:
    """The mean of scores (N,) beside that of the baseline's `values` (N,) on the same images.

    The error is that of the mean difference; of fewer than `FEWEST_PAIRS` images it is too uncertain itself for the
    score to count as better. A single image has no such comparison: it says nothing of the error.
    """
    if len(scores) < 2:
        return ()
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(values, dtype=np.float64)
    comparison = BaselineComparison(
        metric=metric,
        score=float(np.mean(scores)),
        baseline=baseline,
        value=float(np.mean(values)),
        standard_error=float(differences.std(ddof=1) / math.sqrt(len(differences))),
        count=len(differences),
        advice=advice,
        fewest=FEWEST_PAIRS,
        lower_is_better=lower_is_better,
    )
    return (comparison,)
