"""One SimCLR run from its config to a model directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from opsin.config import to_dict
from opsin.data.datasets import batches_of, preprocessing_for
from opsin.probing.evaluation import ADVICE
from opsin.runtime import seeded
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrData, open_data
from opsin.simclr.model import build_model
from opsin.simclr.task import KNN_ACCURACY, SimclrTask
from opsin.sources.image_source import UNLABELLED
from opsin.sources.opening import open_source
from opsin.training.baselines import BaselineComparison, compare_accuracy, compare_measured
from opsin.training.report import TrainReport
from opsin.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class SimclrReport(TrainReport):
    """What a run of SimCLR left, besides."""

    labelled: bool
    """Whether the training images have labels of two classes at least, by which to evaluate the features."""


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
    metrics = dict(result.metrics)
    baselines: tuple[BaselineComparison, ...] = ()
    if trainer.fabric.is_global_zero and KNN_ACCURACY in metrics:
        baselines = _compare(metrics[KNN_ACCURACY], config, data, trainer.fabric.device)
    return SimclrReport(
        model=trainer.run.model,
        metrics=metrics,
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(data.train),
        skipped=data.skipped,
        baselines=baselines,
        labelled=data.bank is not None,
    )


def build_task(config: SimclrConfig, data: SimclrData) -> SimclrTask:
    """The task of a run, with a model initialised from the run's seed."""
    preprocessing = preprocessing_for(data.train, config.image_size)
    with seeded(config.training.seed, "weights"):
        model = build_model(config)
    return SimclrTask(model, config, preprocessing, data)


def _compare(
    accuracy: float, config: SimclrConfig, data: SimclrData, device: torch.device
) -> tuple[BaselineComparison, ...]:
    """The accuracy of nearest neighbours beside always guessing the largest class, and beside the network that the run
    began with."""
    assert data.val is not None
    labels = np.concatenate([batch["label"].numpy() for batch in batches_of(data.val, 256)])
    labels = labels[labels != UNLABELLED]
    untrained = build_task(config, data).to(device).eval().knn_accuracy()
    name = "the same network untrained"
    return (
        compare_accuracy(accuracy, labels, data.num_classes, ADVICE),
        compare_measured("accuracy", accuracy, name, untrained, len(labels), ADVICE),
    )
