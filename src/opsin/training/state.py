"""What a run keeps on disk while it goes on: its training state, its best weights, and in the end its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import Precision
from torch.optim import Optimizer

from opsin.checkpoint import load_training_state, save_training_state, write_domain
from opsin.config import from_dict
from opsin.domain import MOST_IMAGES, ImageDomain
from opsin.errors import CheckpointError, DataError
from opsin.files import write_json
from opsin.state_dicts import load_state_dict, refuse_non_finite
from opsin.training.loggers import read_metrics
from opsin.training.optim import ExponentialMovingAverage
from opsin.training.run_directory import RunDirectory
from opsin.training.selection import Criterion, describe_choice, without_errors
from opsin.training.task import BatchDataset, Task


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
    """The monitored score of the best weights so far."""
    best_step: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    top_metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the validation with the highest score so far, which need not be the best one."""
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
        self.criterion = Criterion(task.monitor, task.higher_is_better, task.other_metrics)
        self.counters = Counters()
        self.saved_step: int | None = None
        """The step of the state on disk."""
        self.exported_metrics: dict[str, float] = {}
        self.choice = ""

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
        self.saved_step = self.counters.step

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
                refuse_non_finite(content["ema"], where)
            self.precision.load_state_dict(content["precision"])
            self.counters = from_dict(Counters, content["counters"], where)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{where} does not fit this run: {error}") from error
        self.saved_step = self.counters.step
        # The file is what counts: it may be newer than this state, when a run is killed after a validation and before
        # the next save.
        best = load_training_state(self.paths.best) if self.paths.best.exists() else {}
        self._take_as_best(best.get("step", -1), best.get("metrics", {}))

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

    def keep_if_best(self, metrics: Mapping[str, float]) -> None:
        """Remember the metrics, and write the weights that the model holds, where these are the best so far."""
        counters = self.counters
        if not self.criterion.can_use(metrics):
            return
        if counters.best is None or self.criterion.supersedes(metrics, counters.best_metrics, counters.top_metrics):
            content = {"model": self.task.model.state_dict(), "step": counters.step, "metrics": dict(metrics)}
            save_training_state(self.paths.best, content)
            self._take_as_best(counters.step, metrics)
        elif self.criterion.gain(metrics, counters.top_metrics) > 0:
            counters.top_metrics = dict(metrics)

    def _take_as_best(self, step: int, metrics: Mapping[str, float]) -> None:
        counters = self.counters
        usable = self.criterion.can_use(metrics)
        counters.best = metrics[self.task.monitor] if usable else None
        counters.best_step, counters.best_metrics = step, dict(metrics)
        if usable and (not counters.top_metrics or self.criterion.gain(metrics, counters.top_metrics) > 0):
            counters.top_metrics = dict(metrics)

    def describe_model(self) -> None:
        """Keep what a model directory of this run holds besides its weights, so that these can be exported at any
        time."""
        self.task.save_model(self.paths.description, {})
        (self.paths.description / "model.safetensors").unlink(missing_ok=True)  # a task may keep no model

    def export(self, which: str) -> None:
        """Write the model directory from the `best` weights, if any validation found some, or from the `last` ones, and
        a file that says which and why. `exported_metrics` and `choice` are those of these weights from then on."""
        counters = self.counters
        step, metrics = counters.step, counters.last_metrics
        use_best = which == "best" and counters.best is not None
        with self.exported_weights():
            if use_best:
                content = load_training_state(self.paths.best)
                load_state_dict(self.task.model, content.get("model", {}), str(self.paths.best))
                step, metrics = counters.best_step, counters.best_metrics
            self.exported_metrics = without_errors(metrics)
            self.task.save_model(self.paths.model, self.exported_metrics)
        if which == "last":
            self.choice = f"the last weights, of step {step}, as the setting export={which!r} says"
        else:
            rows = read_metrics(self.paths.metrics)
            self.choice = describe_choice(rows, counters.best_step if use_best else None, self.criterion)
        chosen = "best" if use_best else "last"
        write_json(self.paths.weights, {"weights": chosen, "step": step, "choice": self.choice})


def _refuse_other_foundations(now: Mapping[str, str], before: Mapping[str, str], where: str) -> None:
    """CheckpointError unless those that a state names are the same now; earlier versions of opsin named none."""
    for name in sorted(now.keys() & before.keys()):
        if now[name] != before[name]:
            raise CheckpointError(
                f"the {name} is not the one that the run in {where} began with: its fingerprint is {now[name][:12]} "
                f"and was {before[name][:12]}. Put the earlier one back, or begin another run with this one"
            )


AT_ONCE = 100


def record_domain(directory: Path, dataset: BatchDataset, known: Mapping[str, Any] | None = None) -> None:
    """Write domain.json of evenly spread training images into a model directory, or what is `known` of them already.

    Nothing is written where batches have no "image" (features have none) and where there are too few to tell.
    """
    if known is None and (domain := domain_of(dataset)) is not None:
        known = asdict(domain)
    if known is not None:
        write_domain(directory, known)


def domain_of(dataset: BatchDataset) -> ImageDomain | None:
    """The domain of at most `MOST_IMAGES` images of a dataset, evenly spread; None where it cannot be told."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_IMAGES)).round().astype(int))
    pixels = []
    for start in range(0, len(rows), AT_ONCE):
        try:
            batch = dataset.__getitems__(rows[start : start + AT_ONCE].tolist())
        except DataError:  # none of these can be read
            continue
        if "image" not in batch:
            return None
        pixels.append(batch["image"].cpu())
    return ImageDomain.of(torch.cat(pixels)) if pixels else None
