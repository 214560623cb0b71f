"""Linear probes against scikit-learn on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from opsin.errors import ConfigError, DataError
from opsin.probing.linear_probe import (
    LinearProbe,
    choose_logistic_regression,
    fit_logistic_regression,
    labelled_rows,
    standardisation,
)


def clouds(count: int, num_classes: int, width: int = 12, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Features float64 around a centre for each class, which overlap."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    return centres[labels] + spread * torch.randn(count, width, generator=generator, dtype=torch.float64), labels


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("strength", [10.0, 0.1, 1e-3])
def test_the_fit_is_scikit_learns(num_classes: int, strength: float) -> None:
    """Weights too, up to what moves all classes alike, which scikit-learn leaves out for two classes."""
    features, labels = clouds(240, num_classes)
    probe = fit_logistic_regression(features, labels, num_classes, strength)
    # Two classes have two rows of weights here, and one in scikit-learn, which is their difference: half the strength.
    penalty = strength / 2 if num_classes == 2 else strength
    peer = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=10_000)
    peer.fit(features.numpy(), labels.numpy())
    expected = peer.predict_proba(features.numpy())
    np.testing.assert_allclose(probe.scores(features).softmax(dim=1).numpy(), expected, atol=1e-5)
    if num_classes > 2:
        np.testing.assert_allclose(probe.weight.numpy(), peer.coef_, atol=1e-4)


def test_float32_gives_the_same_predictions_from_any_start() -> None:
    features, labels = clouds(300, 4)
    exact = fit_logistic_regression(features, labels, 4, 1e-3)
    start = LinearProbe(torch.randn(4, 12), torch.randn(4))
    single = fit_logistic_regression(features.float(), labels, 4, 1e-3, start=start)
    probabilities = single.scores(features.float()).softmax(dim=1)
    torch.testing.assert_close(probabilities.double(), exact.scores(features).softmax(dim=1), atol=1e-3, rtol=0)


def test_the_strength_is_the_best_on_validation_and_the_fit_uses_everything() -> None:
    features, labels = clouds(400, 4, width=60, spread=4.0)
    held_out = torch.arange(400) % 5 == 0
    strengths = (10.0, 0.3, 1e-5)
    chosen = choose_logistic_regression(features, labels, 4, held_out, strengths)
    for strength in strengths:
        peer = LogisticRegression(C=1 / (strength * 320), tol=1e-8, max_iter=10_000)
        peer.fit(features[~held_out].numpy(), labels[~held_out].numpy())
        score = peer.score(features[held_out].numpy(), labels[held_out].numpy())
        assert chosen.accuracies[strength] == pytest.approx(score)
    assert len(set(chosen.accuracies.values())) > 1
    assert chosen.strength == max(strengths, key=lambda strength: chosen.accuracies[strength])
    again = fit_logistic_regression(features, labels, 4, chosen.strength)
    torch.testing.assert_close(chosen.probe.scores(features), again.scores(features), atol=1e-3, rtol=1e-3)


def test_among_equals_the_strongest_is_chosen() -> None:
    features = torch.tensor([[-1.0], [1.0]] * 6)
    labels = torch.tensor([0, 1] * 6)
    chosen = choose_logistic_regression(features, labels, 2, torch.arange(12) < 4, (0.01, 1.0, 0.1))
    assert chosen.strength == 1.0 and set(chosen.accuracies.values()) == {1.0}


def test_standardising_is_scikit_learns() -> None:
    features, _ = clouds(50, 3)
    features[:, 2] = 7.0
    expected = StandardScaler().fit_transform(features.numpy())
    np.testing.assert_allclose(standardisation(features)(features).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(("fraction", "counts"), [(0.1, [10, 3, 1]), (1.0, [100, 30, 2]), (1e-6, [1, 1, 1])])
def test_labels_are_taken_evenly_from_every_class(fraction: float, counts: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [100, 30, 2]))
    rows = labelled_rows(labels, fraction, seed=0)
    assert np.bincount(labels[rows])[[0, 1, 3]].tolist() == counts
    assert len(np.unique(rows)) == len(rows) and np.array_equal(rows, labelled_rows(labels, fraction, seed=0))
    assert not np.array_equal(rows, labelled_rows(labels, fraction, seed=1))


def test_the_labels_of_a_small_share_are_the_first_of_a_larger_one() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 3, 4], [100, 40, 10, 14]))
    rows = [labelled_rows(labels, fraction, seed=0) for fraction in (0.1, 0.25, 0.35, 1.0)]
    for fewer, more in zip(rows, rows[1:], strict=False):
        assert len(fewer) < len(more) and np.array_equal(fewer, more[: len(fewer)])


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_shares_of_the_labels_are_shares(fraction: float) -> None:
    with pytest.raises(ConfigError, match="share of the labels"):
        labelled_rows(np.zeros(3, dtype=np.int64), fraction, seed=0)


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(DataError, match="at least two classes"):
        fit_logistic_regression(torch.randn(3, 2), torch.zeros(3, dtype=torch.int64), 2, 1.0)
    with pytest.raises(DataError, match="2 labelled images are too few"):
        choose_logistic_regression(torch.randn(2, 2), torch.tensor([0, 1]), 2, torch.tensor([False, False]))
