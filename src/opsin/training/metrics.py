"""How well scores of classes fit the labels: accuracy, loss, and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ClassificationMetrics:
    """`accuracy` and `top5_accuracy` in [0, 1], `loss` the mean cross-entropy in nats, over `count` images.

    `confusion` is int64 (K, K): row = true class, column = predicted class.
    """

    count: int
    accuracy: float
    top5_accuracy: float
    loss: float
    confusion: np.ndarray

    def per_class_accuracy(self) -> np.ndarray:
        """Share of each true class that was predicted right, (K,); NaN for a class without images."""
        totals = self.confusion.sum(axis=1).astype(np.float64)
        totals[totals == 0] = np.nan
        return np.diagonal(self.confusion) / totals


def classification_metrics(scores: Tensor, labels: Tensor) -> ClassificationMetrics:
    """Metrics of scores (N, K) against int64 labels (N,); with fewer than five classes, top-5 accuracy is 1."""
    scores = scores.float()
    num_classes = scores.shape[1]
    predicted = scores.argmax(dim=1)
    top = scores.topk(min(5, num_classes), dim=1).indices
    confusion = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return ClassificationMetrics(
        count=len(labels),
        accuracy=float((predicted == labels).float().mean()),
        top5_accuracy=float((top == labels[:, None]).any(dim=1).float().mean()),
        loss=float(F.cross_entropy(scores, labels)),
        confusion=confusion.view(num_classes, num_classes).numpy(),
    )
