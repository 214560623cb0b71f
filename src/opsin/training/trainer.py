"""The training loop, on Lightning Fabric: it runs any task on any number of devices, and loses nothing on a crash.

Every random number of a step follows from the seed and the number of the step alone, and so does the batch. A
training state therefore needs no generator states, and a resumed run continues bit for bit as a straight one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from opsin.checkpoint import load_state_dict, load_training_state, save_training_state
from opsin.errors import CheckpointError, DataError, TrainingError, TrainingInterrupted
from opsin.runtime import derive_seed, make_generator, resolve_device, resolve_precision
from opsin.training.config import TrainingConfig
from opsin.training.ema import ExponentialMovingAverage
from opsin.training.loggers import MetricsLog
from opsin.training.optim import build_optimizer, learning_rate_factor
from opsin.training.progress import ProgressDisplay
from opsin.training.run_directory import RunDirectory
from opsin.training.sampler import StepSampler
from opsin.training.signals import StopSignals
from opsin.training.task import Batch, BatchDataset, Task

logger = logging.getLogger(__name__)
FABRIC_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves: its steps, its seconds of training, and the metrics of the exported model."""

    steps: int
    seconds: float
    metrics: dict[str, float]


@dataclass
class _RunState:
    """What changes while a run goes on; all of it is in the training state on disk."""

    step: int = 0
    seconds: float = 0.0
    validated: int = 0
    """Validations done so far."""
    best: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    last_metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains one task into one run directory."""

    def __init__(self, config: TrainingConfig, directory: Path | str, *, quiet: bool = False) -> None:
        self.config = config
        self.run = RunDirectory(directory)
        self.quiet = quiet
        self.fabric = _make_fabric(config)

    def fit(
        self, task: Task, dataset: BatchDataset, run_config: Mapping[str, Any], *, resume: bool = False
    ) -> TrainingResult:
        """Train to the end of the schedule and export the model.

        `run_config` is the resolved config as JSON types; it is written to the run directory. With `resume` the run
        continues from its last training state (or from the start when it was stopped before the first one).

        Raises TrainingError when the loss stops being finite, TrainingInterrupted after SIGINT or SIGTERM (the state
        is saved first), CheckpointError when a state cannot be written or does not fit, ConfigError when the
        directory is in use.
        """
        if len(dataset) == 0:
            raise DataError("there is no training data: the source has no usable image in its training split")
        self.fabric.launch()
        lock = self.run.locked() if self.fabric.is_global_zero else nullcontext()
        with lock, torch.random.fork_rng():
            if self.fabric.is_global_zero:
                self.run.start(run_config, resume=resume)
            self.fabric.barrier()
            return _Run(self, task, dataset, resume).train()


class _Run:
    """One call of `Trainer.fit`."""

    def __init__(self, trainer: Trainer, task: Task, dataset: BatchDataset, resume: bool) -> None:
        self.config = trainer.config
        self.fabric = trainer.fabric
        self.paths = trainer.run
        self.quiet = trainer.quiet
        self.task = task
        self.dataset = dataset
        if any(isinstance(module, nn.Conv2d) for module in task.modules()):
            task.to(memory_format=torch.channels_last)
        self.wrapped, self.optimizer = self.fabric.setup(task, build_optimizer(task, self.config))
        self.wrapped.mark_forward_method("training_step")
        self.ema = ExponentialMovingAverage(task.model, self.config.ema_decay) if self.config.ema_decay else None
        self.state = _RunState()
        if resume and self.paths.last.exists():
            self._restore()
        self.sampler = StepSampler(
            len(dataset),
            self.config.batch_size,
            self.config.seed,
            start_step=self.state.step,
            accumulate=self.config.accumulate,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        limits = [
            self.config.max_steps,
            self.config.epochs and self.config.epochs * self.sampler.steps_per_epoch,
        ]
        self.total_steps = min((limit for limit in limits if limit is not None), default=None)
        self.unchecked: list[tuple[int, Tensor]] = []
        self.validation_seconds = 0.0
        self.waiting_seconds = 0.0
        self.clock = time.monotonic() - self.state.seconds

    # ------------------------------------------------------------------------------------------- the loop

    def train(self) -> TrainingResult:
        """The loop: step, check, log, validate, save; then export."""
        last_save = time.monotonic()
        with self._outputs() as (log, display), StopSignals() as signals:
            batches = self._batches()
            started, first_step = time.monotonic(), self.state.step
            while (progress := self._progress()) < 1:
                metrics = self._step(batches, progress)
                self.state.step += 1
                after, stop = self._agree(self._progress(), signals.received)
                if self.state.step % self.config.log_every == 0 or self.fabric.device.type == "cpu" or after >= 1:
                    self._refuse_non_finite()
                if self.state.step % self.config.log_every == 0 or after >= 1:
                    self._log(log, display, metrics, after, time.monotonic() - started, first_step)
                if math.floor(after * self.config.validations) > self.state.validated or after >= 1:
                    self.state.validated = math.floor(after * self.config.validations)
                    self._validate(log, display)
                if stop or time.monotonic() - last_save >= 60 * self.config.checkpoint_minutes:
                    self._save()
                    last_save = time.monotonic()
                if stop:
                    raise TrainingInterrupted(
                        f"stopped by signal {stop} after step {self.state.step}; the state is saved in "
                        f"{self.paths.path}, continue with --resume",
                        stop,
                    )
            self._save()
        return self._finish()

    def _step(self, batches: Iterator[Batch], progress: float) -> dict[str, Tensor]:
        """One optimiser step; returns the metrics of its last part, still on the device."""
        step = self.state.step
        rate = self.config.learning_rate * learning_rate_factor(progress, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.task.train()
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.fabric.device)
        for part in range(self.config.accumulate):
            waited = time.monotonic()
            batch = next(batches)
            self.waiting_seconds += time.monotonic() - waited
            identity = (self.config.seed, "step", step, part, self.fabric.global_rank)
            torch.manual_seed(derive_seed(*identity, "default"))
            generator = make_generator(*identity, "task", device=self.fabric.device)
            with self.fabric.no_backward_sync(self.wrapped, enabled=part + 1 < self.config.accumulate):
                output = self.wrapped.training_step(batch, generator)
                self.fabric.backward(output.loss / self.config.accumulate)
            total += output.loss.detach() / self.config.accumulate
        self.unchecked.append((step, total))
        if self.fabric.device.type == "cpu":  # reading a CPU value is free: stop before the weights are spoilt
            self._refuse_non_finite()
        if self.config.grad_clip:
            self.fabric.clip_gradients(
                self.wrapped, self.optimizer, max_norm=self.config.grad_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(step)
        return {"loss": total, **output.metrics}

    def _progress(self) -> float:
        """Share of the run that is done: the largest over its limits."""
        self.state.seconds = time.monotonic() - self.clock
        shares = []
        if self.total_steps is not None:
            shares.append(self.state.step / self.total_steps)
        if self.config.max_minutes is not None:
            # The last validation has to fit in as well; it will take as long as the slowest one so far.
            budget = max(60 * self.config.max_minutes - self.validation_seconds, 1e-9)
            shares.append(self.state.seconds / budget)
        return self._agree(min(max(shares), 1.0), 0)[0]

    def _agree(self, progress: float, signal_number: int) -> tuple[float, int]:
        """The same progress and stop request in every process: clocks and signals differ between them."""
        if self.fabric.world_size == 1:
            return progress, signal_number
        values = torch.tensor([progress, float(signal_number)], dtype=torch.float64, device=self.fabric.device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return float(values[0]), int(values[1])

    def _refuse_non_finite(self) -> None:
        for step, loss in self.unchecked:
            if not math.isfinite(float(loss)):
                epoch = self.sampler.epoch_of(step)
                batch = step % self.sampler.steps_per_epoch
                kept = (
                    f"the last good state is kept in {self.paths.last}"
                    if self.paths.last.exists()
                    else "no state was saved yet"
                )
                raise TrainingError(
                    f"the loss became {float(loss)} at step {step + 1} (epoch {epoch + 1}, batch {batch + 1}); {kept}. "
                    "Try a lower --learning-rate or --precision 32."
                )
        self.unchecked.clear()

    # ---------------------------------------------------------------------------- validation, state, export

    def _validate(self, log: MetricsLog | None, display: ProgressDisplay) -> None:
        """Evaluate on the first process, with averaged weights if there are any, and remember the best."""
        started = time.monotonic()
        if self.fabric.is_global_zero:
            with self._exported_weights():
                metrics = self.task.evaluate()
                self.state.last_metrics = metrics
                self.task.save_samples(self.paths.samples, self.state.step)
                if metrics and log is not None:
                    log.write(self.state.step, {**metrics, "seconds": self.state.seconds})
                    display.note(f"step {self.state.step}  " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items()))
                value = metrics.get(self.task.monitor)
                if value is not None and self._is_better(value):
                    self.state.best, self.state.best_metrics = value, metrics
                    if self.config.export == "best":
                        save_training_state(
                            self.paths.best, {"model": self.task.model.state_dict(), "step": self.state.step}
                        )
        self.fabric.barrier()
        self.validation_seconds = max(self.validation_seconds, time.monotonic() - started)

    def _is_better(self, value: float) -> bool:
        best = self.state.best
        if not math.isfinite(value):
            return False
        return best is None or (value > best if self.task.higher_is_better else value < best)

    @contextlib.contextmanager
    def _exported_weights(self) -> Iterator[None]:
        self.task.eval()
        with torch.no_grad(), self.ema.applied() if self.ema is not None else nullcontext():
            yield

    def _save(self) -> None:
        self._refuse_non_finite()
        if self.fabric.is_global_zero:
            self.state.seconds = time.monotonic() - self.clock
            state = {
                "model": self.task.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else {},
                "run": dataclasses.asdict(self.state),
            }
            save_training_state(self.paths.last, state)
        self.fabric.barrier()

    def _restore(self) -> None:
        content = load_training_state(self.paths.last)
        if missing := {"model", "optimizer", "ema", "run"} - content.keys():
            raise CheckpointError(
                f"{self.paths.last} is not the training state of a run: it has no {sorted(missing)[0]!r}"
            )
        load_state_dict(self.task, content["model"], str(self.paths.last))
        self.optimizer.load_state_dict(content["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        self.state = _RunState(**content["run"])

    def _finish(self) -> TrainingResult:
        metrics = self.state.last_metrics
        if self.fabric.is_global_zero:
            with self._exported_weights():
                if self.config.export == "best" and self.paths.best.exists():
                    metrics = self.state.best_metrics
                    best = load_training_state(self.paths.best)
                    load_state_dict(self.task.model, best["model"], str(self.paths.best))
                self.task.save_model(self.paths.model, metrics)
        self.fabric.barrier()
        return TrainingResult(self.state.step, self.state.seconds, dict(metrics))

    # ---------------------------------------------------------------------------------------- data, output

    def _batches(self) -> Iterator[Batch]:
        loader: DataLoader[Batch] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            num_workers=self.config.workers,
            collate_fn=_as_is,  # batches come whole from the dataset
            pin_memory=self.fabric.device.type == "cuda",
        )
        for batch in loader:
            yield {name: tensor.to(self.fabric.device, non_blocking=True) for name, tensor in batch.items()}

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[tuple[MetricsLog | None, ProgressDisplay]]:
        first = self.fabric.is_global_zero
        display = ProgressDisplay("training", enabled=first and not self.quiet)
        if not first:
            yield None, display
            return
        log = MetricsLog(self.paths.path, start_step=self.state.step, wandb_project=self.config.wandb)
        with log, display:
            yield log, display

    def _log(
        self,
        log: MetricsLog | None,
        display: ProgressDisplay,
        metrics: dict[str, Tensor],
        progress: float,
        elapsed: float,
        first_step: int,
    ) -> None:
        if log is None:
            return
        values = {f"train_{name}": float(value) for name, value in metrics.items()}
        steps = self.state.step - first_step
        speed = steps * self.sampler.batch_size / elapsed
        waiting = self.waiting_seconds / elapsed
        rate = self.optimizer.param_groups[0]["lr"]
        position = {"epoch": self.state.step / self.sampler.steps_per_epoch, "seconds": self.state.seconds}
        log.write(
            self.state.step,
            {
                **values,
                "learning_rate": rate,
                "samples_per_second": speed,
                "waiting_for_data": waiting,
                **position,
            },
        )
        left = self.state.seconds / progress - self.state.seconds if progress > 0 else math.inf
        display.update(progress, self.state.step, values["train_loss"], speed, waiting, left)


def _as_is(batch: Any) -> Any:
    return batch


def _make_fabric(config: TrainingConfig) -> Fabric:
    """Fabric for this process: one device, or the ones that torchrun has dealt out through its environment."""
    device = resolve_device(config.device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    precision = FABRIC_PRECISION[resolve_precision(config.precision, device)]
    devices: int | list[int] = local if world_size > 1 or device.index is None else [device.index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric's advice about hardware that the user did not ask for
        return Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=max(world_size // local, 1),
            strategy="ddp" if world_size > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )
