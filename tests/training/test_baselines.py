"""Baselines by hand, and their errors against simulation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from opsin.training.baselines import compare_accuracy, compare_paired, compare_share

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def test_the_baseline_of_accuracy_is_the_largest_class() -> None:
    (comparison,) = compare_accuracy(0.62, LABELS, "train longer")
    assert comparison.value == pytest.approx(0.6) and comparison.count == 100
    assert not comparison.is_better
    assert "accuracy 0.62 is not clearly above always guessing the largest class (0.6; " in comparison.sentence
    assert comparison.sentence.endswith("train longer")
    (better,) = compare_accuracy(0.8, LABELS, "train longer")
    assert better.is_better and "is above" in better.sentence and "train longer" not in better.sentence
    assert better.document()["is_better"] is True


def test_images_of_one_class_have_no_baseline() -> None:
    assert compare_accuracy(0.9, np.zeros(50, dtype=np.int64), "") == ()
    assert compare_accuracy(0.9, np.array([2, 2, -1]), "") == ()


def test_images_without_a_label_do_not_count() -> None:
    (comparison,) = compare_accuracy(0.9, np.array([0, -1, 1, 1, 1, -1]), "")
    assert (comparison.value, comparison.count) == (0.75, 4)


def test_guessing_is_hardly_ever_better_than_guessing() -> None:
    generator = np.random.default_rng(0)
    scores = generator.binomial(200, 0.3, 2000) / 200
    better = np.mean([compare_share("accuracy", score, "chance", 0.3, 200, "").is_better for score in scores])
    assert 0.005 < better < 0.05


def test_the_error_of_pairs_is_that_of_their_difference() -> None:
    generator = np.random.default_rng(0)
    scores, values = generator.random((2, 40))
    (comparison,) = compare_paired("CIDEr-D", scores, "one caption", values, "")
    assert comparison.standard_error == pytest.approx(float(stats.sem(scores - values)))
    assert not compare_paired("CIDEr-D", scores, "one caption", scores, "")[0].is_better


def test_what_both_get_right_says_nothing_about_their_difference() -> None:
    """Of 100 images both are right on 80: the 9 to 1 among the others is no chance, though two independent shares of
    0.89 and 0.81 could be."""
    right, by_twin = np.ones((2, 100), dtype=bool)
    right[80:91], by_twin[81:100] = False, False
    (comparison,) = compare_paired("accuracy", right, "untrained", by_twin, "")
    assert (comparison.score, comparison.value) == (pytest.approx(0.89), pytest.approx(0.81))
    assert comparison.standard_error == pytest.approx(float(stats.sem(right.astype(int) - by_twin.astype(int))))


def test_a_few_pairs_cannot_be_sure() -> None:
    """The spread of two differences is often small by chance."""
    generator = np.random.default_rng(0)
    for count, limit in ((2, 0.0), (10, 0.06)):
        pairs = generator.normal(size=(4000, 2, count))
        better = np.mean([compare_paired("x", scores, "y", values, "")[0].is_better for scores, values in pairs])
        assert better <= limit
    assert compare_paired("x", np.ones(1), "y", np.zeros(1), "") == ()  # which would have no error at all


def test_a_loss_has_to_be_below_its_baseline() -> None:
    low, high = np.linspace(0.1, 0.2, 20), np.linspace(0.3, 0.5, 20)
    (better,) = compare_paired("loss", low, "without prompts", high, "train", lower_is_better=True)
    assert better.is_better and "loss 0.15 is below without prompts (0.4; " in better.sentence
    for scores, values in ((high, low), (low, low)):
        (worse,) = compare_paired("loss", scores, "without prompts", values, "train", lower_is_better=True)
        assert not worse.is_better and "is not clearly below" in worse.sentence
