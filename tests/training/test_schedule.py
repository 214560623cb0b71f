"""Progress of a run, its clock, and the settings that are refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.errors import ConfigError
from opsin.training.config import TrainingConfig
from opsin.training.schedule import Clock, Schedule
from tests.training.toy import toy_config


class StoppedClock(Clock):
    """Shows what it is set to."""

    def __init__(self, seconds: float, paused: float = 0.0) -> None:
        super().__init__(seconds, paused)
        self.shown = seconds

    @property
    def seconds(self) -> float:
        return self.shown


def test_steps_and_epochs() -> None:
    clock = StoppedClock(1e9)
    schedule = Schedule(TrainingConfig(epochs=3, max_steps=100), steps_per_epoch=20)
    assert schedule.total_steps == 60
    assert [schedule.progress(step, clock, 5.0) for step in (0, 15, 60, 61)] == [0, 0.25, 1, 1]
    assert schedule.has_time_to_validate(clock, 1e6)


@pytest.mark.parametrize(
    ("seconds", "paused", "slowest", "expected"),
    [
        (0, 0, 0, 0.0),
        (30, 0, 0, 0.25),
        (120, 0, 0, 1.0),
        (300, 0, 0, 1.0),
        (50, 0, 20, 0.5),  # 20 of the 120 seconds are for the last validation
        (50, 10, 10, 40 / 100),  # 40 done, 60 left
        (105, 10, 20, 1.0),
    ],
)
def test_a_budget_of_two_minutes(seconds: float, paused: float, slowest: float, expected: float) -> None:
    schedule = Schedule(TrainingConfig(max_minutes=2), steps_per_epoch=20)
    assert schedule.progress(7, StoppedClock(seconds, paused), slowest) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), max_size=30), st.floats(0.1, 3))
def test_progress_never_falls(events: list[tuple[float, float]], minutes: float) -> None:
    """Steps and validations of any length."""
    schedule = Schedule(TrainingConfig(max_minutes=minutes), steps_per_epoch=1)
    clock, slowest, before = StoppedClock(0), 0.0, 0.0
    for step, (training, validating) in enumerate(events):
        clock.shown += training + validating
        clock.paused += validating
        slowest = max(slowest, validating)
        progress = schedule.progress(step, clock, slowest)
        assert before - 1e-12 <= progress <= 1
        before = progress
    assert schedule.progress(0, StoppedClock(60 * minutes), 0.0) == 1


def test_the_first_of_steps_and_minutes_counts() -> None:
    schedule = Schedule(TrainingConfig(max_steps=10, max_minutes=1), steps_per_epoch=20)
    assert schedule.progress(1, StoppedClock(30), 0) == 0.5
    assert schedule.progress(8, StoppedClock(30), 0) == 0.8


def test_slow_validations_are_passed_over() -> None:
    schedule = Schedule(TrainingConfig(max_minutes=2), steps_per_epoch=20)
    assert schedule.has_time_to_validate(StoppedClock(10), 0.0)
    assert schedule.has_time_to_validate(StoppedClock(10), 10.0)
    assert not schedule.has_time_to_validate(StoppedClock(10), 11.0)
    assert not schedule.has_time_to_validate(StoppedClock(110), 5.0)


def test_the_clock_goes_on_where_it_was() -> None:
    clock = Clock(100.0, 40.0)
    assert clock.seconds >= 100
    with clock.pause():
        before = clock.seconds
        while clock.seconds == before:
            time.sleep(0.001)
    assert clock.paused > 40
    assert clock.training_seconds == pytest.approx(60, abs=30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": None}, "say how long to train"),
        ({"max_steps": 0}, "max_steps must be at least 1, not 0"),
        ({"max_minutes": -1}, "max_minutes must be above 0"),
        ({"max_minutes": float("nan")}, "max_minutes must be above 0, not nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be at most 2147483647, not inf"),
        ({"batch_size": 0}, "batch_size"),
        ({"log_every": 0}, "log_every"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, not -0.1"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"validations": -1}, "validations"),
        ({"workers": -1}, "workers"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"beta2": 1.5}, "beta2"),
        ({"batch_size": 10, "accumulate": 4}, r"batch_size \(10\) must be divisible by accumulate \(4\)"),
        ({"precision": "8"}, "'precision' should be one of 'auto', '32', 'bf16', '16', not '8'"),
        ({"export": "first"}, "'export' should be one of 'best', 'last'"),
        ({"learning_rte": 0.1}, "did you mean 'learning_rate'"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_config(**options)
