"""How well scores of classes fit the labels: accuracy, loss, confusions, calibration, and scores of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.results import Table

MOST_DENSE = 100
"""Classes up to which a document has the whole confusion matrix, which is quadratic in them."""
MOST_PRINTED = 12
"""Classes up to which the confusion matrix is a table."""


@dataclass(frozen=True)
class ClassScores:
    """Of each class, (K,): its `images`, and `precision`, `recall` and `f1` in [0, 1].

    NaN are the precision of a class that was never predicted, the recall of one without images, and the F1 of one that
    is neither.
    """

    images: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclass(frozen=True)
class ClassificationMetrics:
    """`accuracy` and `top5_accuracy` in [0, 1], the latter None for five classes or fewer; `loss` is the mean
    cross-entropy in nats, over `count` images.

    `labels` and `predicted` int64 (N,) are the true and the predicted class of each image, of `num_classes`;
    `confidences` (N,) are the probabilities of the predicted ones, and `calibration_error` is the expected calibration
    error of these. The loss, the confidences and their error take the softmax of the scores, and mean nothing where the
    scores are no logits.
    """

    count: int
    accuracy: float
    top5_accuracy: float | None
    loss: float
    calibration_error: float
    num_classes: int
    labels: np.ndarray
    predicted: np.ndarray
    confidences: np.ndarray

    @property
    def confusion(self) -> np.ndarray:
        """Counts int64 (K, K): row = true class, column = predicted class. Quadratic in the number of classes."""
        confusion = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        true, predicted, counts = self.confusion_counts().T
        confusion[true, predicted] = counts
        return confusion

    def confusion_counts(self) -> np.ndarray:
        """The non-zero entries of the confusion matrix, int64 (C, 3): true class, predicted class, count; sorted."""
        pairs, counts = np.unique(self.labels * self.num_classes + self.predicted, return_counts=True)
        return np.stack([pairs // self.num_classes, pairs % self.num_classes, counts], axis=1)

    @property
    def mean_confidence(self) -> float:
        """The mean probability of the predicted classes; well calibrated, it equals the accuracy."""
        return float(self.confidences.mean())

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        return float(np.nanmean(self.per_class().recall))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images or were predicted."""
        return float(np.nanmean(self.per_class().f1))

    def per_class(self) -> ClassScores:
        """Scores of each class."""
        images = np.bincount(self.labels, minlength=self.num_classes)
        predictions = np.bincount(self.predicted, minlength=self.num_classes)
        right = np.bincount(self.labels[self.labels == self.predicted], minlength=self.num_classes)
        return ClassScores(
            images, _share(right, predictions), _share(right, images), _share(2 * right, images + predictions)
        )

    def per_class_accuracy(self) -> np.ndarray:
        """Share of each true class that was predicted right, (K,); NaN for a class without images."""
        return self.per_class().recall

    def rows(self) -> list[tuple[str, float]]:
        """Rows of a table of metrics, which mean something for every kind of scores."""
        top5 = [] if self.top5_accuracy is None else [("top-5 accuracy", self.top5_accuracy)]
        return [
            ("accuracy", self.accuracy),
            *top5,
            ("balanced accuracy", self.balanced_accuracy),
            ("macro F1", self.macro_f1),
        ]

    def document(self) -> dict[str, Any]:
        """The scores of a classifier as JSON types, without those of each class."""
        return {
            "accuracy": self.accuracy,
            "top5_accuracy": self.top5_accuracy,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "mean_confidence": self.mean_confidence,
            "count": self.count,
        }

    def class_tables(self, names: Sequence[str]) -> list[Table]:
        """The scores of each class with its most frequent mistake, and up to 12 classes the confusion matrix."""
        taken_for = self._most_frequent_mistakes()
        rows = [
            (*row, names[taken_for[index]] if index in taken_for else None)
            for index, row in enumerate(self._class_rows(names))
        ]
        header = ("class", "images", "precision", "recall", "F1", "most often taken for")
        tables = [Table(header, rows, "per class")]
        if len(names) <= MOST_PRINTED:
            counts = [(name, *row) for name, row in zip(names, self.confusion.tolist(), strict=True)]
            tables.append(Table(("true \\ predicted", *names), counts, "confusion"))
        return tables

    def class_document(self, names: Sequence[str]) -> dict[str, Any]:
        """The scores of each class and the confusions as JSON types; what is not defined is null."""
        keys = ("class", "images", "precision", "recall", "f1")
        return {
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "per_class": [dict(zip(keys, row, strict=True)) for row in self._class_rows(names)],
            "class_names": list(names),
            "confusion": self.confusion.tolist() if len(names) <= MOST_DENSE else None,
            "confusion_counts": self.confusion_counts().tolist(),
        }

    def _class_rows(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        scores = self.per_class()
        columns = (scores.images.tolist(), *map(_defined, (scores.precision, scores.recall, scores.f1)))
        return list(zip(names, *columns, strict=True))

    def _most_frequent_mistakes(self) -> dict[int, int]:
        """The class that each true class is most often taken for, where it ever is taken for another one."""
        most: dict[int, tuple[int, int]] = {}
        for true, predicted, count in self.confusion_counts().tolist():
            if true != predicted and count > most.get(true, (0, 0))[0]:
                most[true] = (count, predicted)
        return {true: predicted for true, (_, predicted) in most.items()}

    def confident_mistakes(self, most: int) -> np.ndarray:
        """Places int64 of at most so many wrong predictions, the most confident one first."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")][:most]


@torch.no_grad()
def classification_metrics(scores: Tensor, labels: Tensor) -> ClassificationMetrics:
    """Metrics of scores (N, K) against int64 labels (N,)."""
    scores = scores.float()
    num_classes = scores.shape[1]
    top = scores.topk(min(5, num_classes), dim=1).indices
    predicted = scores.argmax(dim=1)
    probabilities = scores.softmax(dim=1)
    return ClassificationMetrics(
        count=len(labels),
        accuracy=float((predicted == labels).float().mean()),
        top5_accuracy=float((top == labels[:, None]).any(dim=1).float().mean()) if num_classes > 5 else None,
        loss=float(F.cross_entropy(scores, labels)),
        calibration_error=expected_calibration_error(probabilities, labels),
        num_classes=num_classes,
        labels=labels.numpy(),
        predicted=predicted.numpy(),
        confidences=probabilities.amax(dim=1).numpy(),
    )


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy in [0, 1] over `bins` equal intervals of confidence, weighted by
    the images in each; probabilities (N, K), int64 labels (N,).

    "On Calibration of Modern Neural Networks", Guo et al. 2017, section 2. NaN where a probability is.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    if not bool(confidence.isfinite().all()):
        return float("nan")
    right = (predicted == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # intervals are open below and closed above
    zeros = torch.zeros(bins, dtype=torch.float64)
    gaps = zeros.index_add(0, place, right) - zeros.index_add(0, place, confidence)
    return float(gaps.abs().sum() / len(labels))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where there is nothing to take a part of."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _defined(shares: np.ndarray) -> list[float | None]:
    return [None if share != share else float(share) for share in shares]
