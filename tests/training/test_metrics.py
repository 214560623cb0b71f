"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch

from opsin.training.metrics import classification_metrics


def test_metrics_equal_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 7, generator=generator)
    labels = torch.randint(6, (200,), generator=generator)  # class 6 never occurs
    ours = classification_metrics(scores, labels)
    predicted = scores.argmax(dim=1)

    assert ours.count == 200
    assert ours.accuracy == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    top5 = sklearn.metrics.top_k_accuracy_score(labels, scores, k=5, labels=range(7))
    assert ours.top5_accuracy == pytest.approx(top5)
    assert ours.loss == pytest.approx(
        sklearn.metrics.log_loss(labels, scores.double().softmax(dim=1).numpy(), labels=range(7)), rel=1e-5
    )
    np.testing.assert_array_equal(ours.confusion, sklearn.metrics.confusion_matrix(labels, predicted, labels=range(7)))
    per_class = ours.per_class_accuracy()
    assert np.isnan(per_class[6])
    assert per_class[2] == pytest.approx(float((predicted[labels == 2] == 2).float().mean()))


def test_top5_with_few_classes_is_certain() -> None:
    assert classification_metrics(torch.randn(9, 3), torch.arange(9) % 3).top5_accuracy == 1.0
