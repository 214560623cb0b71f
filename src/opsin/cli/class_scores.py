"""How verbs print the metrics of a classification: a table, scores of each class, and which are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opsin.cli.output import print_table

if TYPE_CHECKING:
    import numpy as np

    from opsin.training.metrics import ClassificationMetrics

MOST_DENSE = 100
"""Classes up to which JSON has the whole confusion matrix, which is quadratic in them."""
MOST_PRINTED = 12


def accuracy_rows(metrics: ClassificationMetrics) -> list[tuple[str, float]]:
    """Rows of a table of metrics that every kind of scores has."""
    top5 = [] if metrics.top5_accuracy is None else [("top-5 accuracy", metrics.top5_accuracy)]
    return [
        ("accuracy", metrics.accuracy),
        *top5,
        ("balanced accuracy", metrics.balanced_accuracy),
        ("macro F1", metrics.macro_f1),
    ]


def print_classes(metrics: ClassificationMetrics, names: Sequence[str]) -> None:
    """The scores of each class with its most frequent mistake, and up to 12 classes the confusion matrix."""
    scores = metrics.per_class()
    taken_for = _most_frequent_mistakes(metrics)
    columns = (scores.images.tolist(), *map(_defined, (scores.precision, scores.recall, scores.f1)))
    rows = [
        (name, *cells, names[taken_for[index]] if index in taken_for else None)
        for index, (name, *cells) in enumerate(zip(names, *columns, strict=True))
    ]
    header = ("class", "images", "precision", "recall", "F1", "most often taken for")
    print_table(header, rows, title="per class")
    if len(names) <= MOST_PRINTED:
        counts = [(name, *row) for name, row in zip(names, metrics.confusion.tolist(), strict=True)]
        print_table(("true \\ predicted", *names), counts, title="confusion")


def classes_document(metrics: ClassificationMetrics, names: Sequence[str]) -> dict[str, Any]:
    """The scores of each class and the confusions as JSON types; what is not defined is null."""
    scores = metrics.per_class()
    columns = (scores.images.tolist(), *map(_defined, (scores.precision, scores.recall, scores.f1)))
    keys = ("class", "images", "precision", "recall", "f1")
    return {
        "balanced_accuracy": metrics.balanced_accuracy,
        "macro_f1": metrics.macro_f1,
        "per_class": [dict(zip(keys, row, strict=True)) for row in zip(names, *columns, strict=True)],
        "class_names": list(names),
        "confusion": metrics.confusion.tolist() if len(names) <= MOST_DENSE else None,
        "confusion_counts": metrics.confusion_counts().tolist(),
    }


def _most_frequent_mistakes(metrics: ClassificationMetrics) -> dict[int, int]:
    """The class that each true class is most often taken for, where it ever is taken for another one."""
    most: dict[int, tuple[int, int]] = {}
    for true, predicted, count in metrics.confusion_counts().tolist():
        if true != predicted and count > most.get(true, (0, 0))[0]:
            most[true] = (count, predicted)
    return {true: predicted for true, (_, predicted) in most.items()}


def _defined(shares: np.ndarray) -> list[float | None]:
    return [None if share != share else float(share) for share in shares]
