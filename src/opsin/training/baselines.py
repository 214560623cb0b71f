"""A score beside its baseline: what is reached without having learned anything."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from opsin.training.selection import error_of_share

STANDARD_ERRORS = 2.0
"""By how many standard errors a score must be above its baseline: chance alone reaches that once in forty times."""


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """A score, where more is better, and the baseline that it has to beat.

    `standard_error` is that of their difference over `count` images; `advice` says what to do where the score is no
    better.
    """

    metric: str
    score: float
    baseline: str
    value: float
    standard_error: float
    count: int
    advice: str

    @property
    def is_better(self) -> bool:
        """Whether the score is above the baseline by more than chance explains."""
        gain = self.score - self.value
        return gain > 0 and gain >= STANDARD_ERRORS * self.standard_error

    @property
    def sentence(self) -> str:
        """The comparison in words, with the advice where the score is no better."""
        error = f"standard error {self.standard_error:.2g} over {self.count:,} images"
        if self.is_better:
            return f"{self.metric} {self.score:.3g} is above {self.baseline} ({self.value:.3g}; {error})"
        return (
            f"{self.metric} {self.score:.3g} is not clearly above {self.baseline} ({self.value:.3g}; {error}); "
            f"{self.advice}"
        )

    def document(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        return {**asdict(self), "is_better": self.is_better, "sentence": self.sentence}


def compare_accuracy(accuracy: float, labels: np.ndarray, num_classes: int, advice: str) -> BaselineComparison:
    """Accuracy on images of these labels int64 (N,), N >= 1, beside always guessing the largest of their classes.

    Where all of them are of one class, which guessing always hits, it is compared with chance among all `num_classes`.
    """
    counts = np.bincount(labels)
    largest = float(counts.max() / counts.sum())
    if largest < 1 or num_classes == 1:
        return compare_share("accuracy", accuracy, "always guessing the largest class", largest, len(labels), advice)
    return compare_share("accuracy", accuracy, "chance", 1 / num_classes, len(labels), advice)


def compare_share(
    metric: str, score: float, baseline: str, value: float, count: int, advice: str
) -> BaselineComparison:
    """A share of `count` images beside the share `value` that is known exactly; the error is binomial."""
    return BaselineComparison(
        metric=metric,
        score=score,
        baseline=baseline,
        value=value,
        standard_error=math.sqrt(value * (1 - value) / count),
        count=count,
        advice=advice,
    )


def compare_measured(
    metric: str, score: float, baseline: str, value: float, count: int, advice: str
) -> BaselineComparison:
    """A share of `count` images beside a share that was measured on as many, such as that of an untrained network.

    The error is that of two independent samples: no smaller than the true one where both are right on the same images.
    """
    return BaselineComparison(
        metric=metric,
        score=score,
        baseline=baseline,
        value=value,
        standard_error=math.hypot(error_of_share(score, count), error_of_share(value, count)),
        count=count,
        advice=advice,
    )


def compare_paired(
    metric: str, scores: np.ndarray, baseline: str, values: np.ndarray, advice: str
) -> BaselineComparison:
    """Means of scores (N,) beside those of the baseline's `values` (N,) on the same N >= 2 images; the error is that of
    the mean difference."""
    differences = scores - values
    return BaselineComparison(
        metric=metric,
        score=float(scores.mean()),
        baseline=baseline,
        value=float(values.mean()),
        standard_error=float(differences.std(ddof=1) / math.sqrt(len(differences))),
        count=len(differences),
        advice=advice,
    )
