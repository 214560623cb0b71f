"""Nearest neighbours against the course's formula and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from opsin.errors import ConfigError
from opsin.probing.knn import default_neighbours, knn_predict, nearest_neighbours


def unit(rows: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def some_labels(count: int, num_classes: int) -> Tensor:
    return torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(3))


def one_by_one(features: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int, tau: float) -> Tensor:
    """The course's formula for one image after the other, in float64, divided by the sum of all votes."""
    scores = torch.zeros(len(features), num_classes, dtype=torch.float64)
    for row, feature in enumerate(features.double()):
        similarities = bank.double() @ feature
        for neighbour in sorted(range(len(bank)), key=lambda index: -float(similarities[index]))[:k]:
            scores[row, labels[neighbour]] += torch.exp(similarities[neighbour] / tau)
    return scores / scores.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.5), (7, 0.5), (7, 0.1), (60, 2.0)])
@pytest.mark.parametrize("chunk_size", [1, 150, 2**24])
def test_votes_are_those_of_the_formula_however_they_are_cut(k: int, temperature: float, chunk_size: int) -> None:
    features, bank, labels = unit(11, 8, 0), unit(60, 8, 1), some_labels(60, 4)
    scores = knn_predict(features, bank, labels, 4, k=k, temperature=temperature, chunk_size=chunk_size)
    expected = one_by_one(features, bank, labels, 4, k, temperature)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)


def test_scikit_learn_gives_the_same_shares() -> None:
    """Whose distance is the cosine one, and whose weights are the same function of it."""
    features, bank, labels = unit(40, 16, 0), unit(300, 16, 1), some_labels(300, 5)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.5)

    peer = KNeighborsClassifier(n_neighbors=50, metric="cosine", algorithm="brute", weights=weights)
    expected = peer.fit(bank.numpy(), labels.numpy()).predict_proba(features.numpy())
    np.testing.assert_allclose(knn_predict(features, bank, labels, 5, k=50).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.001, 1e-40, 5e-324])
def test_low_temperatures_do_not_overflow(temperature: float) -> None:
    features = unit(5, 8, 0)
    scores = knn_predict(features, features, torch.arange(5), 5, k=5, temperature=temperature)
    assert torch.equal(scores, torch.eye(5))


def test_half_precision_is_compared_in_float32() -> None:
    features, bank, labels = unit(6, 8, 0).bfloat16(), unit(30, 8, 1).bfloat16(), some_labels(30, 3)
    expected = one_by_one(features, bank, labels, 3, 9, 0.5)
    torch.testing.assert_close(knn_predict(features, bank, labels, 3, k=9).double(), expected, atol=1e-5, rtol=1e-5)


def test_zero_vectors_and_a_single_class_and_no_images() -> None:
    zeros = torch.zeros(2, 4)
    assert torch.equal(knn_predict(zeros, torch.zeros(3, 4), torch.tensor([0, 0, 0]), 1, k=3), torch.ones(2, 1))
    assert knn_predict(zeros[:0], unit(3, 4, 0), torch.tensor([0, 1, 1]), 2, k=3).shape == (0, 2)


def test_neighbours_come_nearest_first() -> None:
    features, bank = unit(9, 8, 0), unit(50, 8, 1)
    similarities, rows = nearest_neighbours(features, bank, 4, chunk_size=100)
    expected = (features @ bank.T).sort(dim=1, descending=True)
    assert torch.equal(rows, expected.indices[:, :4])
    torch.testing.assert_close(similarities, expected.values[:, :4])
    assert nearest_neighbours(features[:0], bank, 4)[1].shape == (0, 4)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_images_are_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"{k} nearest neighbours need a bank .* this one has 3"):
        knn_predict(unit(2, 4, 0), unit(3, 4, 1), torch.tensor([0, 1, 0]), 2, k=k)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_are_above_zero(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature of nearest neighbours must be above zero"):
        knn_predict(unit(2, 4, 0), unit(3, 4, 1), torch.tensor([0, 1, 0]), 2, k=1, temperature=temperature)


def test_the_default_number_of_neighbours_follows_the_set() -> None:
    assert default_neighbours(torch.arange(50_000) % 10) == 200
    assert default_neighbours(torch.arange(400) % 2) == 20
    assert default_neighbours(torch.arange(286) % 27) == 11  # the median class has eleven images
    assert default_neighbours(torch.tensor([0, 0, 0, 0, 1])) == 1
    with_a_rare_class = torch.cat([torch.arange(48) % 3, torch.tensor([3])])
    assert default_neighbours(with_a_rare_class) == 7


def test_small_sets_are_not_all_named_after_the_largest_class() -> None:
    """27 classes around centers of their own, a third of the images in one of them: 286 in all."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.zeros(91, dtype=torch.int64), torch.arange(195) % 26 + 1])
    labels = labels[torch.randperm(286, generator=generator)]
    centers = torch.randn(27, 16, generator=generator)
    features = F.normalize(centers[labels] + 0.5 * torch.randn(286, 16, generator=generator), dim=1)

    def accuracy(k: int) -> float:
        scores = knn_predict(features[::2], features[1::2], labels[1::2], 27, k=k)
        return float((scores.argmax(dim=1) == labels[::2]).float().mean())

    assert accuracy(default_neighbours(labels[1::2])) > 0.9
    assert accuracy(143) < 0.4
