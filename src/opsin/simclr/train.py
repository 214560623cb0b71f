"""One SimCLR run from its config to a model directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsin.config import to_dict
from opsin.data.datasets import preprocessing_for
from opsin.data.sources import open_source
from opsin.runtime import seeded
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrData, open_data
from opsin.simclr.model import build_model
from opsin.simclr.task import SimclrTask
from opsin.training.report import TrainReport
from opsin.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class SimclrReport(TrainReport):
    """What a run of SimCLR left, besides."""

    labelled: bool
    """Whether the images that were trained on have labels of two classes at least, by which to judge the features."""


def train_simclr(
    config: SimclrConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> SimclrReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source is not looked at. Raises DataError when the data cannot be used for this, and what
    `Trainer.fit` raises.
    """
    data = open_data(open_source(config.data, labels=False, exclude=config.exclude), config)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(build_task(config, data), data.train, to_dict(config), resume=resume)
    return SimclrReport(
        model=trainer.run.model,
        metrics=dict(result.metrics),
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(data.train),
        skipped=data.skipped,
        labelled=data.bank is not None,
    )


def build_task(config: SimclrConfig, data: SimclrData) -> SimclrTask:
    """The task of a run, with a model initialised from the run's seed."""
    preprocessing = preprocessing_for(data.train, config.image_size)
    with seeded(config.training.seed, "weights"):
        model = build_model(config)
    return SimclrTask(model, config, preprocessing, data)
