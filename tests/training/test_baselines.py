"""Baselines by hand, and their errors against simulation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from opsin.training.baselines import compare_accuracy, compare_measured, compare_paired, compare_share

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def test_the_baseline_of_accuracy_is_the_largest_class() -> None:
    comparison = compare_accuracy(0.62, LABELS, 3, "train longer")
    assert comparison.value == pytest.approx(0.6) and comparison.count == 100
    assert not comparison.is_better
    assert "accuracy 0.62 is not clearly above always guessing the largest class (0.6; " in comparison.sentence
    assert comparison.sentence.endswith("train longer")
    better = compare_accuracy(0.8, LABELS, 3, "train longer")
    assert better.is_better and "is above" in better.sentence and "train longer" not in better.sentence
    assert better.document()["is_better"] is True


def test_images_of_one_class_are_compared_with_chance() -> None:
    comparison = compare_accuracy(0.9, np.zeros(50, dtype=np.int64), 4, "")
    assert (comparison.baseline, comparison.value) == ("chance", 0.25)
    assert comparison.is_better


def test_guessing_is_hardly_ever_better_than_guessing() -> None:
    generator = np.random.default_rng(0)
    scores = generator.binomial(200, 0.3, 2000) / 200
    better = np.mean([compare_share("accuracy", score, "chance", 0.3, 200, "").is_better for score in scores])
    assert 0.005 < better < 0.05


def test_the_error_of_two_measured_shares_is_that_of_independent_ones() -> None:
    generator = np.random.default_rng(0)
    differences = generator.binomial(150, 0.6, 20000) / 150 - generator.binomial(150, 0.4, 20000) / 150
    comparison = compare_measured("accuracy", 0.6, "untrained", 0.4, 150, "")
    assert comparison.standard_error == pytest.approx(differences.std(), rel=0.03)


def test_the_error_of_pairs_is_that_of_their_difference() -> None:
    generator = np.random.default_rng(0)
    scores, values = generator.random((2, 40))
    comparison = compare_paired("CIDEr-D", scores, "one caption", values, "")
    assert comparison.standard_error == pytest.approx(float(stats.sem(scores - values)))
    assert not compare_paired("CIDEr-D", scores, "one caption", scores, "").is_better


def test_shares_of_none_and_all_have_an_error() -> None:
    assert not compare_measured("accuracy", 1.0, "untrained", 0.75, 4, "").is_better
    assert compare_measured("accuracy", 1.0, "untrained", 0.0, 1, "").standard_error > 0.3
