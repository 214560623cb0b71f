"""How far a run has come, by its steps and by the clock, and how fast it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opsin.training.config import TrainingConfig


class Clock:
    """Seconds of a run, added up over all its sittings; those of validating and saving are also counted apart."""

    def __init__(self, seconds: float = 0.0, paused: float = 0.0) -> None:
        self.paused = paused
        self._origin = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Everything since the run began, without the time between an interruption and the resumption."""
        return time.monotonic() - self._origin

    @property
    def training_seconds(self) -> float:
        """Seconds spent on training steps."""
        return max(self.seconds - self.paused, 0.0)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The block is not training."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - started


class Speed:
    """Throughput of this sitting, and how much of its time went into waiting for data."""

    def __init__(self, clock: Clock, first_step: int) -> None:
        self.clock = clock
        self.first_step = first_step
        self.first_second = clock.training_seconds
        self.waiting_seconds = 0.0
        self.last_shown = -math.inf

    @contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.waiting_seconds += time.monotonic() - started

    def measure(self, step: int, batch_size: int) -> tuple[float, float]:
        """Samples a second, and the share of the time in [0, 1] spent waiting."""
        self.last_shown = time.monotonic()
        seconds = max(self.clock.training_seconds - self.first_second, 1e-9)
        return (step - self.first_step) * batch_size / seconds, self.waiting_seconds / seconds


class Schedule:
    """Share of a run that is done, in [0, 1]: the largest over its limits, so the first one that is reached ends it.

    With a time budget the share is training time done over training time done and left. What is left excludes the
    last validation, which is taken to last as long as the slowest so far: the learning rate is down to about zero when
    that one begins, and the budget holds with it.
    """

    def __init__(self, config: TrainingConfig, steps_per_epoch: int) -> None:
        limits = [config.max_steps, config.epochs and config.epochs * steps_per_epoch]
        self.total_steps = min((limit for limit in limits if limit is not None), default=None)
        self.budget = None if config.max_minutes is None else 60 * config.max_minutes

    def progress(self, step: int, clock: Clock, slowest_validation: float) -> float:
        """Share done after `step` steps."""
        shares = []
        if self.total_steps is not None:
            shares.append(step / self.total_steps)
        if self.budget is not None:
            left = self._left(clock, slowest_validation)
            shares.append(clock.training_seconds / (clock.training_seconds + left) if left > 0 else 1.0)
        return min(max(shares), 1.0)

    def has_time_to_validate(self, clock: Clock, slowest_validation: float) -> bool:
        """False when validating between steps would take more than a tenth of the training time that is left."""
        return slowest_validation <= 0.1 * self._left(clock, slowest_validation)

    def _left(self, clock: Clock, slowest_validation: float) -> float:
        return math.inf if self.budget is None else self.budget - clock.seconds - slowest_validation
