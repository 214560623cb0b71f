"""Which validation has the best weights: a pure function of what the validations measured."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from opsin.training.selection import (
    Criterion,
    describe_choice,
    describe_metrics,
    error_of_mean,
    error_of_share,
    without_errors,
)

ACCURACY = Criterion("val_accuracy", True, {"val_loss": False})
CAPTIONS = Criterion("val_cider_d", True, {"val_loss": False, "val_distinct_ratio": True})
RECALL = Criterion("val_recall", True, {"val_loss": False})
LOSS = Criterion("val_loss", False, {"val_loss": False})

Metrics = dict[str, float]


def accuracy(share: float, loss: float, count: int) -> Metrics:
    return {"val_accuracy": share, "val_accuracy_se": error_of_share(share, count), "val_loss": loss}


def captions(cider_d: float, error: float, loss: float, distinct: float) -> Metrics:
    return {"val_cider_d": cider_d, "val_cider_d_se": error, "val_loss": loss, "val_distinct_ratio": distinct}


def chosen(criterion: Criterion, validations: list[Metrics]) -> int:
    """The place of the best, taken one validation after the other as the trainer does."""
    best = top = 0
    for place, metrics in enumerate(validations[1:], start=1):
        if criterion.supersedes(metrics, validations[best], validations[top]):
            best = place
        if criterion.gain(metrics, validations[top]) > 0:
            top = place
    return best


def test_the_loss_decides_where_so_few_images_cannot_tell_by_accuracy() -> None:
    """32 validation images in 27 classes: three of them right, or two, is chance."""
    validations = [accuracy(1 / 32, 3.31, 32), accuracy(3 / 32, 3.30, 32), accuracy(2 / 32, 3.24, 32)]
    assert chosen(ACCURACY, validations) == 2
    assert chosen(ACCURACY, [accuracy(3 / 32, 3.30, 32), accuracy(1 / 32, 3.24, 32)]) == 1
    assert chosen(ACCURACY, [accuracy(3 / 32, 3.24, 32), accuracy(4 / 32, 3.30, 32)]) == 0


def test_with_many_images_the_accuracy_decides() -> None:
    assert chosen(ACCURACY, [accuracy(0.094, 3.30, 10_000), accuracy(0.0625, 3.24, 10_000)]) == 0
    assert chosen(ACCURACY, [accuracy(0.90, 0.40, 10_000), accuracy(0.92, 0.60, 10_000)]) == 1
    # Overfitting of few images: the accuracy still rises by more than chance would have it.
    assert chosen(ACCURACY, [accuracy(0.2, 2.0, 32), accuracy(0.9, 2.5, 32)]) == 1


def test_captions_that_are_all_the_same_do_not_win_by_a_few_words() -> None:
    """CIDEr-D speaks for the collapsed captioner, by more than one standard error; loss and variety are against it."""
    collapsed, better = captions(0.11, 0.03, 4.93, 0.06), captions(0.06, 0.02, 4.34, 0.46)
    assert chosen(CAPTIONS, [collapsed, better]) == chosen(CAPTIONS, [collapsed, better, collapsed]) == 1
    assert chosen(CAPTIONS, [better, collapsed]) == 0
    # Two to one is not enough against what cannot be chance.
    assert chosen(CAPTIONS, [captions(0.50, 0.03, 4.93, 0.3), better]) == 0
    # One against one: the higher score.
    assert chosen(CAPTIONS, [captions(0.11, 0.03, 4.93, 0.5), captions(0.10, 0.03, 4.34, 0.4)]) == 0


def test_another_metric_decides_by_more_than_its_own_error_only() -> None:
    """Recall at 10 of few candidates is the same for all: the recall at 1 tells them apart, where it can."""
    criterion = Criterion("r10", True, {"r1": True})

    def recalls(r1: float, count: int) -> Metrics:
        return {"r10": 1.0, "r10_se": error_of_share(1.0, count), "r1": r1, "r1_se": error_of_share(r1, count)}

    assert chosen(criterion, [recalls(0.9, 50), recalls(0.5, 50)]) == 0
    assert chosen(criterion, [recalls(0.52, 50), recalls(0.5, 50)]) == 1  # as good: the later one
    assert chosen(criterion, [recalls(0.52, 50_000), recalls(0.5, 50_000)]) == 0


def test_where_nothing_tells_the_later_weights_are_taken() -> None:
    rows = [{"val_recall": 0.5, "val_recall_se": 0.1}, {"val_recall": 0.45, "val_recall_se": 0.1}]
    assert chosen(RECALL, rows) == 1
    assert chosen(RECALL, [rows[0], {"val_recall": 0.3, "val_recall_se": 0.1}]) == 0
    assert chosen(ACCURACY, [accuracy(0.5, 1.0, 32)] * 3) == 2


def test_a_score_without_an_error_is_compared_as_it_is() -> None:
    assert chosen(LOSS, [{"val_loss": value} for value in (3.0, 1.0, 1.0001, 2.0)]) == 1
    plain = Criterion("val_loss", True, {"val_loss": False})
    assert chosen(plain, [{"val_loss": value} for value in (3.0, 1.0, 3.5)]) == 2


@pytest.mark.parametrize("count", [10, 100, 10_000])
def test_what_is_chosen_keeps_up_with_the_highest_score(count: int) -> None:
    """Many small steps down do not add up: the best stays within the error of the highest of all validations."""
    generator = random.Random(count)
    for _ in range(200):
        rights = [generator.randint(0, count) for _ in range(8)]
        rows = [accuracy(right / count, generator.random(), count) for right in rights]
        best, top = rows[chosen(ACCURACY, rows)], max(rows, key=lambda row: row["val_accuracy"])
        assert ACCURACY.gain(top, best) <= ACCURACY.error_of_difference(top, best)


def test_standard_errors() -> None:
    assert error_of_share(0.5, 10_000) == pytest.approx(math.sqrt(0.25 / 10_000), rel=1e-3)
    assert 0 < error_of_share(0.0, 32) < error_of_share(0.5, 32)
    assert error_of_share(1.0, 32) == pytest.approx(error_of_share(0.0, 32))
    values = [0.1, 0.4, 0.2]
    assert error_of_mean(values) == pytest.approx(statistics.stdev(values) / math.sqrt(3))
    assert error_of_mean([0.3]) == 0.0


def test_metrics_in_words() -> None:
    metrics = {"val_accuracy": 0.875, "val_accuracy_se": 0.05, "val_loss": 0.4}
    assert describe_metrics(metrics) == "val_accuracy 0.8750 ± 0.0500  val_loss 0.4000"
    assert without_errors(metrics) == {"val_accuracy": 0.875, "val_loss": 0.4}


def test_the_choice_in_words() -> None:
    rows: list[dict] = [{"step": step, **accuracy(share, 3.0, 32)} for step, share in ((5, 0.1), (10, 0.12), (15, 0.9))]
    rows.append({"step": 15, "train_loss": 1.0})
    assert "the last" in describe_choice(rows[3:], None, ACCURACY)
    assert describe_choice(rows[:1], 5, ACCURACY).endswith("at step 5, the only validation")
    unsure = describe_choice(rows[:2], 10, ACCURACY)
    assert "within the standard error: 1 of the other 1 validations. Among them val_loss decided" in unsure
    behind = describe_choice(rows, 10, ACCURACY)
    assert "at step 10, though val_accuracy 0.9000" in behind and "at step 15 is better" in behind
    assert "differs from all other validations" in describe_choice(rows, 15, ACCURACY)
    losses = [{"step": step, "val_loss": 1.0 / step} for step in (1, 2)]
    assert describe_choice(losses, 2, LOSS) == "val_loss 0.5000 at step 2, the best of 2 validations"
