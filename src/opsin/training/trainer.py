"""The training loop, on Lightning Fabric: it runs any task on any number of devices, and loses nothing on a crash.

Every random number of a step follows from the seed and the number of the step alone, and so does the batch. A
training state therefore needs no generator states, and a resumed run continues bit for bit as a straight one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from opsin.checkpoint import read_domain, write_domain
from opsin.errors import DataError, TrainingError, TrainingInterrupted
from opsin.progress import Progress, format_duration
from opsin.runtime import derive_seed, make_generator
from opsin.training.config import TrainingConfig
from opsin.training.failures import StopSignals, explained
from opsin.training.loader import StepSampler, load_batches
from opsin.training.loggers import MetricsLog
from opsin.training.optim import ExponentialMovingAverage, build_optimizer, learning_rate_factor
from opsin.training.processes import Processes, aside
from opsin.training.run_directory import RunDirectory
from opsin.training.schedule import Clock, Schedule, Speed
from opsin.training.selection import describe_metrics
from opsin.training.state import TrainingState, record_domain
from opsin.training.task import BatchDataset, StepOutput, Task

logger = logging.getLogger(__name__)
DISPLAY_SECONDS = 1.0
REQUESTED = 1000
"""In the place of a signal's number: the `progress` asked to stop."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves: its steps, its seconds of training, the metrics of the exported model, and a sentence
    on which weights these are and how sure the choice is."""

    steps: int
    seconds: float
    metrics: dict[str, float]
    choice: str = ""


class Trainer:
    """Trains one task into one run directory."""

    def __init__(self, config: TrainingConfig, directory: Path | str, *, progress: Progress | None = None) -> None:
        self.config = config
        self.run = RunDirectory(directory)
        self.progress = progress or Progress()

    def fit(
        self, task: Task, dataset: BatchDataset, run_config: Mapping[str, Any], *, resume: bool = False
    ) -> TrainingResult:
        """Train to the end of the schedule and export the model; `task` then holds the weights of the last step.

        `run_config` is the resolved config as JSON types; it is written to the run directory. With `resume` the run
        continues from its last training state (or from the start when it was stopped before the first one).

        Raises TrainingError when the loss stops being finite, TrainingInterrupted after SIGINT or SIGTERM, or when
        `progress` says so (the state is saved first), CheckpointError when a state cannot be written or does not fit,
        ConfigError when the directory is in use. After a second SIGINT it is TrainingInterrupted at once, with the
        state saved last.
        """
        if len(dataset) == 0:
            raise DataError("there is no training data: the source has no usable image in its training split")
        processes = Processes(self.config)
        gpus = [processes.device] if processes.device.type == "cuda" else []
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(gpus))  # the caller's random numbers are not ours to disturb
            processes.on_first(lambda: stack.enter_context(self.run.locked(resume=resume)))
            run = _Run(self, processes, task, dataset, resume)
            with explained(run.state, self.config.workers):
                processes.on_first(lambda: self.run.record(run_config))
                processes.on_first(run.describe)
                return run.train()


class _Agreed(NamedTuple):
    """What all processes have to know alike after a step, though each has its own clock and gets its own signals."""

    progress: float
    stop: int
    """Number of the signal that asked to stop, `REQUESTED`, or 0."""
    save: bool
    has_time_to_validate: bool


class _Run:
    """One call of `Trainer.fit`."""

    def __init__(self, trainer: Trainer, processes: Processes, task: Task, dataset: BatchDataset, resume: bool) -> None:
        self.config = trainer.config
        self.fabric = processes.fabric
        self.processes = processes
        self.paths = trainer.run
        self.progress = trainer.progress
        self.display = self.progress if processes.is_first else Progress()
        self.task = task
        self.dataset = dataset
        if any(isinstance(module, nn.Conv2d) for module in task.modules()):
            task.to(memory_format=torch.channels_last)
        if processes.count > 1 and self.fabric.device.type == "cuda":  # torch has it for CUDA only
            nn.SyncBatchNorm.convert_sync_batchnorm(task)
        self.wrapped, self.optimizer = self.fabric.setup(
            task, build_optimizer(task, self.config, task.learning_rate_scale)
        )
        self.ema = ExponentialMovingAverage(task.model, self.config.ema_decay) if self.config.ema_decay else None
        self.state = TrainingState(self.paths, task, self.optimizer, self.ema, self.fabric.strategy.precision)
        if resume and self.paths.last.exists():
            self.state.restore()
        self.counters = self.state.counters
        if not processes.agree_on(self.counters.step):
            raise TrainingError(
                f"the processes of the run do not find the same training state in {self.paths.path}; the run directory "
                "has to be on a disk that all of them share"
            )
        self.sampler = StepSampler(
            len(dataset),
            self.config.batch_size,
            self.config.seed,
            start_step=self.counters.step,
            accumulate=self.config.accumulate,
            smallest_batch=task.smallest_batch,
            rank=processes.rank,
            world_size=processes.count,
        )
        self.batches = load_batches(dataset, self.sampler, self.fabric.device, self.config.workers)
        self.schedule = Schedule(self.config, self.sampler.steps_per_epoch)
        self.clock = Clock(self.counters.seconds, self.counters.paused)
        self.speed = Speed(self.clock, self.counters.step)
        self.unchecked: list[tuple[int, Tensor, Tensor]] = []
        self.last_save = time.monotonic()

    def describe(self) -> None:
        """Keep what a model directory holds besides the weights, so that these can be exported at any time."""
        domain = read_domain(self.paths.description)  # of a run that goes on: its images are the same
        self.state.describe_model()
        record_domain(self.paths.description, self.dataset, known=domain)

    def _export(self) -> None:
        self.state.export(self.config.export)
        domain = read_domain(self.paths.description)
        if domain is not None:
            write_domain(self.paths.model, domain)

    # ------------------------------------------------------------------------------------------- the loop

    def train(self) -> TrainingResult:
        """The loop: validate if it is due, step, check, log, save; then export.

        The state is always saved before a validation, which may fail: a resumed run begins with the one that is due.
        """
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log())
            stack.callback(self.display.finish)
            signals = stack.enter_context(StopSignals(announce=self.processes.is_first))
            stack.enter_context(contextlib.closing(self.batches))
            agreed = self._agree(signals)
            # A run that goes on to a later end than before is validated by its new schedule.
            self.counters.validations = min(self.counters.validations, self._validations_due(agreed.progress))
            while agreed.progress < 1:
                if self._validation_is_due(agreed):
                    self._validate(log, agreed.progress)
                metrics = self._step(agreed.progress)
                self.counters.step += 1
                agreed = self._agree(signals)
                self._report(log, metrics, agreed.progress)
                if agreed.stop or agreed.save or agreed.progress == 1 or self._validation_is_due(agreed):
                    self._save()
                if agreed.stop:
                    raise self._interrupted(agreed.stop)
            if self.counters.validated_step != self.counters.step:
                self._validate(log, agreed.progress)
            self._save()
        self.processes.on_first(self._export)
        return TrainingResult(self.counters.step, self.clock.seconds, self.state.exported_metrics, self.state.choice)

    def _interrupted(self, stop: int) -> TrainingInterrupted:
        how, number = ("on request", signal.SIGTERM) if stop == REQUESTED else (f"by {signal.Signals(stop).name}", stop)
        return TrainingInterrupted(
            f"stopped {how} after step {self.counters.step}; the state is saved in {self.paths.path}, continue with "
            "--resume",
            number,
        )

    def _step(self, progress: float) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and metrics of the joint batch, still on the device."""
        step = self.counters.step
        rate = self.config.learning_rate * learning_rate_factor(progress, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)  # states of earlier versions have none
        self.task.train()
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for part in range(self.config.accumulate):
            with self.speed.waiting():
                batch = next(self.batches)
            share = self.sampler.share_of(step, part)
            identity = (self.config.seed, "step", step, part, self.processes.rank)
            torch.manual_seed(derive_seed(*identity, "default"))
            generator = make_generator(*identity, "task", device=self.fabric.device)
            standing = aside() if share == 0 else contextlib.nullcontext()
            with standing, self.fabric.no_backward_sync(self.wrapped, enabled=part + 1 < self.config.accumulate):
                output: StepOutput = self.wrapped(batch, generator)
                # The processes' gradients are averaged, hence the factor: the sum of the shares is one.
                self.fabric.backward(output.loss * (share * self.processes.count))
            for name, value in {"loss": output.loss.detach(), **output.metrics}.items():
                sums[name] = share * value.float() + sums.get(name, 0.0)
        metrics = self.processes.total(sums)
        metrics["grad_norm"] = self._clip_gradients()
        self.unchecked.append((step, metrics["loss"], metrics["grad_norm"]))
        if self.fabric.device.type == "cpu":  # reading a CPU value is free: stop before the weights are spoilt
            self._refuse_non_finite()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(step)
        return metrics

    def _clip_gradients(self) -> Tensor:
        """Scale the gradient down to the largest norm that is allowed; returns the norm that it had."""
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=self.config.grad_clip or math.inf, error_if_nonfinite=False
        )
        assert norm is not None
        return norm

    def _agree(self, signals: StopSignals) -> _Agreed:
        slowest = self.counters.slowest_validation
        values = [
            self.schedule.progress(self.counters.step, self.clock, slowest),
            float(signals.received or (REQUESTED if self.progress.should_stop() else 0)),
            float(time.monotonic() - self.last_save >= 60 * self.config.checkpoint_minutes),
            float(not self.schedule.has_time_to_validate(self.clock, slowest)),
        ]
        progress, stop, save, no_time = self.processes.largest(values)
        return _Agreed(progress, int(stop), bool(save), not no_time)

    def _refuse_non_finite(self) -> None:
        # Under float16 an infinite gradient is normal: the step is skipped and the loss scale lowered.
        checks_gradient = self.config.precision != "16"
        for step, loss, norm in self.unchecked:
            if not math.isfinite(float(loss)):
                raise self._non_finite("loss", float(loss), step)
            if checks_gradient and not math.isfinite(float(norm)):
                raise self._non_finite("norm of the gradient", float(norm), step)
        self.unchecked.clear()

    def _non_finite(self, what: str, value: float, step: int) -> TrainingError:
        epoch, batch = divmod(step, self.sampler.steps_per_epoch)
        saved = self.paths.last.exists()
        kept = f"the last good state is kept in {self.paths.last}" if saved else "no state was saved yet"
        return TrainingError(
            f"the {what} became {value} at step {step + 1} (epoch {epoch + 1}, batch {batch + 1}); {kept}. "
            "Try a lower --learning-rate or --precision 32."
        )

    # ------------------------------------------------------------------------------- validating and saving

    def _validation_is_due(self, agreed: _Agreed) -> bool:
        """Whether to validate before the next step; the last validation comes after the loop."""
        due = self._validations_due(agreed.progress)
        return agreed.progress < 1 and agreed.has_time_to_validate and due > self.counters.validations

    def _validations_due(self, progress: float) -> int:
        return math.floor(progress * self.config.validations)

    def _validate(self, log: MetricsLog | None, progress: float) -> None:
        """Evaluate in the first process, with averaged weights if there are any, and remember the best."""
        self._refuse_non_finite()
        started = time.monotonic()
        with self.clock.pause():
            self.processes.on_first(lambda: self._evaluate(log))
        self.counters.slowest_validation = max(self.counters.slowest_validation, time.monotonic() - started)
        self.counters.validated_step = self.counters.step
        self.counters.validations = self._validations_due(progress)

    def _evaluate(self, log: MetricsLog | None) -> None:
        step = self.counters.step
        with self.state.exported_weights():
            measured = self.task.evaluate()
            metrics = {name: value for name, value in measured.items() if math.isfinite(value)}
            if broken := sorted(measured.keys() - metrics.keys()):
                logger.warning("validation at step %d: %s is not finite and is left out", step, ", ".join(broken))
            self.counters.last_metrics = metrics
            self.task.save_samples(self.paths.samples, step)
            if metrics and log is not None:
                log.write(step, {**metrics, "seconds": self.clock.seconds})
                self.display.note(f"step {step}  {describe_metrics(metrics)}")
            self.state.keep_if_best(metrics)
        if self.ema is not None:
            with torch.no_grad():
                self.task.save_samples(self.paths.samples / "raw", step)

    def _save(self) -> None:
        self._refuse_non_finite()
        with self.clock.pause():
            self.counters.seconds, self.counters.paused = self.clock.seconds, self.clock.paused
            self.processes.on_first(self.state.save)
        self.last_save = time.monotonic()

    # ----------------------------------------------------------------------------------------- reporting

    def _log(self) -> contextlib.AbstractContextManager[MetricsLog | None]:
        """The log, in the first process only."""
        if not self.processes.is_first:
            return contextlib.nullcontext()
        return MetricsLog(
            self.paths.path,
            start_step=self.counters.step,
            start_is_validated=self.counters.validated_step == self.counters.step,
            wandb_project=self.config.wandb,
        )

    def _report(self, log: MetricsLog | None, metrics: dict[str, Tensor], progress: float) -> None:
        """Log every so many steps, and keep the display fresh; reading the values waits for the device."""
        step = self.counters.step
        to_log = step % self.config.log_every == 0 or progress >= 1
        to_show = time.monotonic() - self.speed.last_shown >= DISPLAY_SECONDS
        if to_log:
            self._refuse_non_finite()
        if log is None or not (to_log or to_show):
            return
        samples_per_second, waiting = self.speed.measure(step, self.sampler.batch_size)
        if to_log:
            row = {f"train_{name}": float(value) for name, value in metrics.items() if math.isfinite(float(value))}
            row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
            row |= {"samples_per_second": samples_per_second, "waiting_for_data": waiting}
            row |= {"epoch": step / self.sampler.steps_per_epoch, "seconds": self.clock.seconds}
            log.write(step, row)
        left = self.clock.seconds / progress - self.clock.seconds if progress > 0 else math.inf
        self.display.report(
            "training",
            progress,
            1.0,
            status=f"step {step}  loss {float(metrics['loss']):.4f}  {samples_per_second:.0f} samples/s  "
            f"waiting for data {waiting:.0%}  left {format_duration(left)}",
        )
