"""Metrics against scikit-learn and torchmetrics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

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


@pytest.mark.parametrize(("classes", "is_known"), [(3, False), (5, False), (6, True)])
def test_top5_of_five_classes_or_fewer_says_nothing(classes: int, is_known: bool) -> None:
    metrics = classification_metrics(torch.randn(12, classes), torch.arange(12) % classes)
    assert (metrics.top5_accuracy is not None) == is_known


def test_scores_of_classes_equal_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (300,), generator=generator)  # class 6 never occurs
    scores = torch.randn(300, 7, generator=generator) + torch.nn.functional.one_hot(labels, 7)
    scores[:, 5] = -torch.inf  # class 5 is never predicted
    ours = classification_metrics(scores, labels)
    predicted = scores.argmax(dim=1)
    precision, recall, f1, images = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=np.nan
    )
    per_class = ours.per_class()
    np.testing.assert_array_equal(per_class.images, images)
    np.testing.assert_allclose(per_class.precision, precision)
    np.testing.assert_allclose(per_class.recall, recall)
    np.testing.assert_allclose(per_class.f1, f1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn remarks on classes that are predicted only
        assert ours.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    macro = sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert ours.macro_f1 == pytest.approx(macro)


def test_sparse_confusions_are_those_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    metrics = classification_metrics(torch.randn(50, 9, generator=generator), torch.arange(50) % 8)
    counts = metrics.confusion_counts()
    assert (counts[:, 2] > 0).all() and counts[:, 2].sum() == 50
    rebuilt = np.zeros((9, 9), dtype=np.int64)
    rebuilt[counts[:, 0], counts[:, 1]] = counts[:, 2]
    np.testing.assert_array_equal(rebuilt, metrics.confusion)


def test_many_classes_need_no_square_of_memory() -> None:
    """A dense matrix of so many classes would have ten thousand million numbers."""
    labels = torch.tensor([0, 99_999, 7])
    scores = torch.zeros(3, 100_000)
    scores[:, 7] = 1
    metrics = classification_metrics(scores, labels)
    assert metrics.confusion_counts().tolist() == [[0, 7, 1], [7, 7, 1], [99_999, 7, 1]]
    assert metrics.balanced_accuracy == pytest.approx(1 / 3)


def test_the_most_confident_mistakes_come_first() -> None:
    logits = torch.tensor([[3.0, 0.0], [9.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    metrics = classification_metrics(logits, torch.tensor([1, 0, 1, 1]))
    assert metrics.confident_mistakes(5).tolist() == [3, 0]
    assert metrics.confident_mistakes(1).tolist() == [3]
    assert metrics.mean_confidence == pytest.approx(float(logits.softmax(dim=1).amax(dim=1).mean()))


def test_calibration_error_equals_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(2)
    scores, labels = 3 * torch.randn(400, 5, generator=generator), torch.arange(400) % 5
    expected = multiclass_calibration_error(scores.softmax(dim=1), labels, num_classes=5, n_bins=15, norm="l1")
    assert classification_metrics(scores, labels).calibration_error == pytest.approx(float(expected), abs=1e-5)
