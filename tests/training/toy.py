"""A small task for the trainer's tests, also a script: `python -m tests.training.toy DIR [--option value …]`.

A network with dropout learns a fixed linear map of noise; every feature of the trainer that can break a resumed run
(dropout, per-step generators, moving average, momentum) is in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from opsin.checkpoint import save_pretrained
from opsin.config import from_dict
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
    def __init__(self, *, dropout: float = 0.1, noise: float = 0.05, explode_at: int | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            super().__init__(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 3)))
        self.noise = noise
        self.explode_at = explode_at
        self.calls = 0
        self.validation = ToyData()

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        self.calls += 1
        x = batch["x"] + self.noise * torch.randn(batch["x"].shape, generator=generator)
        loss = (self.model(x) - batch["y"]).square().mean()
        if self.calls == self.explode_at:
            loss = loss * float("nan")
        return StepOutput(loss, {"error": loss.detach().sqrt()})

    def evaluate(self) -> dict[str, float]:
        loss = (self.model(self.validation.x) - self.validation.y).square().mean()
        return {"val_loss": float(loss)}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        state = self.model.state_dict()
        save_pretrained(directory, kind="toy", config={"metrics": dict(metrics)}, tensors=state, card="toy")


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
    directory: Path, *, resume: bool = False, task: ToyTask | None = None, **options: object
) -> TrainingResult:
    trainer = Trainer(toy_config(**options), directory, quiet=True)
    return trainer.fit(task or ToyTask(), ToyData(), {"toy": True}, resume=resume)


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    toy = ToyTask(**arguments.pop("task", {}))
    train_toy(Path(sys.argv[1]), resume=arguments.pop("resume", False), task=toy, **arguments)
