"""One SimCLR run from its config to a model directory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from opsin.config import to_dict
from opsin.data.datasets import PixelDataset
from opsin.data.images import Skipped
from opsin.data.preprocessing import Preprocessing, channel_statistics
from opsin.data.sources import open_source
from opsin.runtime import derive_seed
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrData, open_data
from opsin.simclr.model import build_model
from opsin.simclr.task import SimclrTask
from opsin.training.trainer import Trainer


@dataclass(frozen=True)
class TrainReport:
    """What a run left: where the model is, its metrics, how it was made, and which images could not be used."""

    model: Path
    metrics: dict[str, float]
    steps: int
    seconds: float
    num_train: int
    skipped: tuple[Skipped, ...]


def train_simclr(
    config: SimclrConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source is not looked at. Raises DataError when the data cannot be used for this, and what
    `Trainer.fit` raises.
    """
    data = open_data(open_source(config.data), config)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(build_task(config, data), data.train, to_dict(config), resume=resume)
    return TrainReport(
        model=trainer.run.model,
        metrics=dict(result.metrics),
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(data.train),
        skipped=data.skipped,
    )


def build_task(config: SimclrConfig, data: SimclrData) -> SimclrTask:
    """The task of a run, with a model initialised from the run's seed."""
    preprocessing = Preprocessing(image_size=config.image_size)
    if isinstance(data.train, PixelDataset) and len(data.train):
        mean, std = channel_statistics(data.train.pixels.numpy())
        preprocessing = replace(preprocessing, mean=mean, std=std)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.training.seed, "weights"))
        model = build_model(config)
    return SimclrTask(model, config, preprocessing, data)
