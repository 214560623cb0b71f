"""A small task for the trainer's tests, also a script: `python -m tests.training.toy DIR '{"max_steps": 5}'`.

A network with dropout learns a fixed linear map of noise; every feature of the trainer that can break a resumed run
(dropout, per-step generators, moving average, momentum) is in it. `Accident` makes things go wrong on purpose.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from opsin.checkpoint import save_pretrained
from opsin.config import from_dict
from opsin.errors import OpsinError
from opsin.training.config import TrainingConfig
from opsin.training.task import Batch, StepOutput, Task
from opsin.training.trainer import Trainer, TrainingResult


class ToyData:
    def __init__(self, count: int = 50) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(count, 8, generator=generator)
        self.y = self.x @ torch.randn(8, 3, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"x": self.x[indices], "y": self.y[indices]}


class ToyTask(Task):
    def __init__(
        self, *, dropout: float = 0.1, noise: float = 0.05, hidden: int = 32, validation_losses: Sequence[float] = ()
    ) -> None:
        """`validation_losses` are reported one after the other in place of the measured ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            super().__init__(nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 3)))
        self.noise = noise
        self.calls = 0
        self.losses: list[float] = []
        self.validation = ToyData()
        self.validation_losses = list(validation_losses)

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.calls += 1
        x = batch["x"] + self.noise * torch.randn(batch["x"].shape, generator=generator)
        output = self.model(x)
        loss = (output - batch["y"]).square().mean()
        self.losses.append(float(loss.detach()))
        bits = {"output_bits": output.element_size() * 8.0, "batch_bits": batch["x"].element_size() * 8.0}
        return StepOutput(
            loss, {"error": loss.detach().sqrt(), **{name: torch.tensor(value) for name, value in bits.items()}}
        )

    def evaluate(self) -> dict[str, float]:
        if self.validation_losses:
            return {"val_loss": self.validation_losses.pop(0)}
        loss = (self.model(self.validation.x) - self.validation.y).square().mean()
        return {"val_loss": float(loss)}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        state = self.model.state_dict()
        save_pretrained(directory, kind="toy", config={"metrics": dict(metrics)}, tensors=state, card="toy")


@dataclass(frozen=True, kw_only=True)
class Accident:
    """What happens to a run, and when: at the `step`-th training step (counted from one in this sitting), or while the
    state is saved for the `save`-th time, before the call of `os.fsync` or `os.replace` named by `before`."""

    step: int = 0
    save: int = 0
    before: str = ""
    rank: int = 0
    kind: str = "SIGKILL"
    """A signal to this process; or `nan` loss, `infinite_gradient` of a finite loss, `full_disk` (no file may
    grow beyond 600 bytes)."""

    def happen(self) -> None:
        if self.kind == "full_disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        else:
            os.kill(os.getpid(), getattr(signal, self.kind))

    def is_for_this_process(self) -> bool:
        return int(os.environ.get("RANK", "0")) == self.rank


class UnluckyTask(ToyTask):
    def __init__(self, accident: Accident, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.accident = accident
        self.saves = 0
        if accident.before and accident.is_for_this_process():
            self._hook(accident.before)

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        output = super().training_step(batch, generator)
        if self.calls != self.accident.step or not self.accident.is_for_this_process():
            return output
        if self.accident.kind == "nan":
            return output._replace(loss=output.loss * float("nan"))
        if self.accident.kind == "infinite_gradient":
            zero = (self.model[3].bias * 0).sum()
            return output._replace(loss=output.loss + zero.sqrt())
        self.accident.happen()
        return output

    def _hook(self, name: str) -> None:
        real = getattr(os, name)

        def unlucky(target: int | Path, *arguments: Path) -> None:
            written = Path(os.readlink(f"/proc/self/fd/{target}")) if isinstance(target, int) else Path(target)
            if written.name.startswith(".last.pt."):
                self.saves += 1
                if self.saves == self.accident.save:
                    self.accident.happen()
            real(target, *arguments)

        setattr(os, name, unlucky)


def toy_config(**options: object) -> TrainingConfig:
    settings = {
        "max_steps": 30,
        "batch_size": 8,
        "validations": 3,
        "ema_decay": 0.9,
        "device": "cpu",
        "precision": "32",
        "log_every": 1,
        "checkpoint_minutes": 0.0,
    }
    return from_dict(TrainingConfig, {**settings, **options})


def train_toy(
    directory: Path, *, resume: bool = False, task: ToyTask | None = None, samples: int = 50, **options: object
) -> TrainingResult:
    trainer = Trainer(toy_config(**options), directory)
    return trainer.fit(task or ToyTask(), ToyData(samples), {"toy": True}, resume=resume)


def main(directory: str, options: dict) -> int:
    """Train as a script; like the command line, an error is one line on stderr and the exit code."""
    torch.set_num_threads(1)
    settings = options.pop("task", {})
    accident = options.pop("accident", None)
    task = ToyTask(**settings) if accident is None else UnluckyTask(Accident(**accident), **settings)
    try:
        train_toy(Path(directory), task=task, **options)
    except OpsinError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}))
