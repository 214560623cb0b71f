"""Scores of drawings against slow oracles and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from opsin.diffusion import metrics
from opsin.diffusion.metrics import (
    feature_diversity,
    find_neighbours,
    frechet_distance,
    prompt_fidelity,
    prompt_ranks,
)


def unit_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exact_sample(mean: np.ndarray, root: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Vectors whose mean and covariance are exactly `mean` and `root @ root.T`."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return mean + white @ root.T


def test_rank_counts_the_names_that_are_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS_AT_A_TIME", 7)
    images, names = unit_vectors(20, 3), unit_vectors(11, 3, seed=1)
    prompts = np.random.default_rng(2).integers(0, 11, 20)
    slow = [
        sorted((-float(image @ name), index != own) for index, name in enumerate(names)).index(
            (-float(image @ names[own]), False)
        )
        + 1
        for image, own in zip(images, prompts, strict=True)
    ]
    assert prompt_ranks(images, names, prompts).tolist() == slow
    twins = np.stack([names[0], names[0], names[1]])
    assert prompt_ranks(names[:1], twins, np.array([0])).tolist() == [2], "a name that is as near counts against"


def test_every_prompt_counts_the_same() -> None:
    ranks = np.array([1, 1, 1, 9, 3])
    fidelity = prompt_fidelity(ranks, np.array([4, 4, 4, 4, 7]), 9)
    assert fidelity.top1 == pytest.approx((0.75 + 0) / 2)
    assert fidelity.top5 == pytest.approx((0.75 + 1) / 2)
    assert fidelity.top5_error == pytest.approx(np.std([0.75, 1], ddof=1) / np.sqrt(2))
    single = prompt_fidelity(ranks[:4], np.zeros(4, dtype=np.int64), 9)
    assert (single.top1, single.top1_error) == (0.75, None)


def test_being_among_all_names_is_no_score() -> None:
    ranks, prompts = np.array([1, 1, 2, 5]), np.array([0, 0, 1, 2])
    assert prompt_fidelity(ranks, prompts, 6).top5 == 1
    few = prompt_fidelity(ranks, prompts, 5)
    assert (few.top5, few.top5_error) == (None, None) and few.top1 == pytest.approx(1 / 3)
    assert prompt_fidelity(ranks[:2], prompts[:2], 1).top1 is None


def test_diversity_is_the_mean_over_pairs() -> None:
    features = unit_vectors(9, 5)
    prompts = np.array([0, 0, 0, 1, 1, 1, 1, 2, 0])
    within: dict[int, list[float]] = {}
    across = []
    for i in range(9):
        for j in range(i):
            distance = 1 - float(features[i] @ features[j])
            if prompts[i] == prompts[j]:
                within.setdefault(int(prompts[i]), []).append(distance)
            else:
                across.append(distance)
    diversity = feature_diversity(features, prompts)
    assert diversity.same_prompt == pytest.approx(np.mean([np.mean(pairs) for pairs in within.values()]))
    assert diversity.different_prompts == pytest.approx(np.mean(across))


def test_diversity_of_equal_images_is_zero_and_of_single_ones_unknown() -> None:
    features = unit_vectors(3, 200).repeat(4, axis=0)
    diversity = feature_diversity(features, np.arange(3).repeat(4))
    assert diversity.same_prompt == pytest.approx(0, abs=1e-12)
    assert diversity.different_prompts == pytest.approx(
        feature_diversity(features[::4], np.arange(3)).different_prompts
    )
    assert feature_diversity(features[::4], np.arange(3)).same_prompt is None
    assert feature_diversity(features[:4], np.zeros(4)).different_prompts is None


def test_frechet_distance_of_known_normal_distributions() -> None:
    variances = np.array([[4.0, 1.0, 0.25], [1.0, 9.0, 0.25]])
    means = np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 5.0]])
    first, second = (
        exact_sample(mean, np.diag(np.sqrt(own)), count, seed=count)
        for mean, own, count in zip(means, variances, (40, 60), strict=True)
    )
    # |m1 - m2|^2 = 5, and the squared differences of the standard deviations 2, 1, 0.5 and 1, 3, 0.5 are 1 + 4 + 0.
    assert frechet_distance(first, second) == pytest.approx(10, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(10, rel=1e-9)
    assert frechet_distance(first, first[::-1]) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_against_the_root_of_the_matrix() -> None:
    generator = np.random.default_rng(5)
    first, second = (generator.standard_normal((80, 6)) @ generator.standard_normal((6, 6)) for _ in range(2))
    covariances = [np.cov(vectors, rowvar=False) for vectors in (first, second)]
    slow = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    slow += np.trace(covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert frechet_distance(first, second) == pytest.approx(slow, rel=1e-8)
    turn = np.linalg.qr(generator.standard_normal((6, 6)))[0]
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(slow, rel=1e-8)


def test_frechet_distance_of_fewer_vectors_than_dimensions() -> None:
    few = unit_vectors(4, 300).astype(np.float32)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-10)
    shift = np.zeros(300)
    shift[7] = 3
    assert frechet_distance(few, few + shift) == pytest.approx(9, rel=1e-6)
    # Two lines at a right angle: the variances add up, as nothing of one is in the direction of the other.
    along = np.zeros((2, 3, 300))
    along[0, :, 0], along[1, :, 1] = [-1, 0, 1], [-2, 0, 2]
    assert frechet_distance(along[0], along[1]) == pytest.approx(1 + 4, rel=1e-9)
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(few, few[:1])


@pytest.mark.parametrize("block", [1, 4, 100])
def test_neighbours_as_a_slow_search_finds_them(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS_AT_A_TIME", block)
    generator = np.random.default_rng(3)
    training = generator.integers(0, 256, (13, 12), dtype=np.uint8)
    drawings = np.concatenate([training[[5, 0]], generator.integers(0, 256, (6, 12), dtype=np.uint8)])

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.linalg.norm(one.astype(float) - other.astype(float)))

    found = find_neighbours(drawings, training)
    for place, drawing in enumerate(drawings):
        nearest = min(range(13), key=lambda row: distance(drawing, training[row]))
        others = [distance(training[nearest], training[row]) for row in range(13) if row != nearest]
        assert found.rows[place] == nearest
        assert found.distances[place] == pytest.approx(distance(drawing, training[nearest]))
        assert found.spacing[place] == pytest.approx(min(others))
    assert found.distances[:2].tolist() == [0, 0] and found.is_copy[:2].all()


def test_what_is_a_copy() -> None:
    training = np.array([[0.0, 0.0], [3.0, 0.0], [50.0, 0.0]])
    found = find_neighbours(np.array([[0.0, 2.9], [0.0, 3.1], [50.0, 40.0], [50.0, 47.5]]), training)
    assert found.rows.tolist() == [0, 0, 2, 2]
    assert found.spacing.tolist() == [3, 3, 47, 47]
    assert found.is_copy.tolist() == [True, False, True, False]
    assert found.nearness[0] == pytest.approx(2.9 / 3)
    alone = find_neighbours(np.array([[9.0, 9.0]]), training[:1])
    assert alone.spacing.tolist() == [np.inf] and alone.is_copy.all(), "whatever is drawn is near to the only image"
