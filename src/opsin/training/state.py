"""What a run keeps on disk while it goes on: its training state, its best weights, and in the end its model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from lightning_fabric.plugins import Precision
from torch.optim import Optimizer

from opsin.checkpoint import load_training_state, save_training_state
from opsin.config import from_dict
from opsin.errors import CheckpointError, ConfigError
from opsin.state_dicts import load_state_dict
from opsin.training.ema import ExponentialMovingAverage
from opsin.training.run_directory import RunDirectory
from opsin.training.task import Task


@dataclass
class Counters:
    """The numbers that change while a run goes on."""

    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    paused: float = 0.0
    """Of the seconds, those of validating and saving."""
    validations: int = 0
    """Validations that were due by the latest one."""
    validated_step: int = -1
    """The step of the latest validation."""
    slowest_validation: float = 0.0
    """Seconds."""
    best: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    last_metrics: dict[str, float] = field(default_factory=dict)


class TrainingState:
    """Everything that a resumed run needs. Random numbers are not among it: they follow from the seed and the step."""

    def __init__(
        self,
        paths: RunDirectory,
        task: Task,
        optimizer: Optimizer,
        ema: ExponentialMovingAverage | None,
        precision: Precision,
    ) -> None:
        self.paths = paths
        self.task = task
        self.optimizer = optimizer
        self.ema = ema
        self.precision = precision  # holds the loss scale of float16
        self.counters = Counters()

    def save(self) -> None:
        """Write the state; CheckpointError when that fails, and then the previous one is still there."""
        state = {
            "foundations": self.task.foundations(),
            "model": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "precision": self.precision.state_dict(),
            "counters": dataclasses.asdict(self.counters),
        }
        save_training_state(self.paths.last, state)

    def restore(self) -> None:
        """Take up the state on disk; CheckpointError when it is damaged or belongs to a run of another kind."""
        where = str(self.paths.last)
        content = load_training_state(self.paths.last)
        if missing := {"model", "optimizer", "ema", "precision", "counters"} - content.keys():
            raise CheckpointError(f"{where} is not the training state of a run: it has no {sorted(missing)[0]!r}")
        _refuse_other_foundations(self.task.foundations(), content.get("foundations", {}), where)
        load_state_dict(self.task, content["model"], where)
        if (self.ema is None) != (not content["ema"]):
            was, now = ("without", "with") if self.ema is not None else ("with", "without")
            raise CheckpointError(f"{where} was written {was} averaged weights (ema_decay), and this run is {now} them")
        try:
            self.optimizer.load_state_dict(content["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
            self.precision.load_state_dict(content["precision"])
            self.counters = from_dict(Counters, content["counters"], where)
        except (ConfigError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{where} does not fit this run: {error}") from error
        if self.paths.best.exists():
            # It may be newer than this state, when a run is killed after a validation and before the next save.
            metrics = load_training_state(self.paths.best).get("metrics", {})
            self.counters.best, self.counters.best_metrics = metrics.get(self.task.monitor), metrics

    @contextmanager
    def exported_weights(self) -> Iterator[None]:
        """The model as it is judged and exported, with averaged weights if there are any; its own are back after it."""
        own = {name: tensor.detach().clone() for name, tensor in self.task.model.state_dict().items()}
        self.task.eval()
        try:
            with torch.no_grad():
                if self.ema is not None:
                    self.task.model.load_state_dict(self.ema.state_dict())
                yield
        finally:
            self.task.model.load_state_dict(own)

    def keep_if_best(self, metrics: Mapping[str, float], *, write: bool) -> None:
        """Remember metrics that are better than all before; with `write` also the weights that the model holds."""
        value = metrics.get(self.task.monitor)
        if value is None or not math.isfinite(value):
            return
        if self.counters.best is not None and self._rank(metrics) <= self._rank(self.counters.best_metrics):
            return
        if write:
            content = {"model": self.task.model.state_dict(), "step": self.counters.step, "metrics": dict(metrics)}
            save_training_state(self.paths.best, content)
        self.counters.best, self.counters.best_metrics = value, dict(metrics)

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """What is highest for the best weights: the monitor, and where that is equal the lower `val_loss`. A score of
        few images can be the same, such as 0, at every validation."""
        sign = 1 if self.task.higher_is_better else -1
        return sign * metrics[self.task.monitor], -metrics.get("val_loss", math.inf)

    def export(self, which: str) -> None:
        """Write the model directory from the `best` weights, if any validation found some, or from the `last` ones."""
        metrics = self.counters.last_metrics
        with self.exported_weights():
            if which == "best" and self.counters.best is not None:
                content = load_training_state(self.paths.best)
                load_state_dict(self.task.model, content.get("model", {}), str(self.paths.best))
                metrics = self.counters.best_metrics
            self.task.save_model(self.paths.model, metrics)


def _refuse_other_foundations(now: Mapping[str, str], before: Mapping[str, str], where: str) -> None:
    """CheckpointError unless those that a state names are the same now; earlier versions of opsin named none."""
    for name in sorted(now.keys() & before.keys()):
        if now[name] != before[name]:
            raise CheckpointError(
                f"the {name} is not the one that the run in {where} began with: its fingerprint is {now[name][:12]} "
                f"and was {before[name][:12]}. Put the earlier one back, or begin another run with this one"
            )
