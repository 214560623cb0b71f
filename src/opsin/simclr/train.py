"""One SimCLR run from its config to a model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from opsin.data.datasets import batches_of, preprocessing_for
from opsin.probing.evaluation import ADVICE
from opsin.runtime import resolve_device, seeded
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrSplits, open_splits
from opsin.simclr.model import build_model
from opsin.simclr.task import KNN_ACCURACY, SimclrTask
from opsin.sources.image_source import UNLABELLED
from opsin.training.baselines import compare_accuracy, compare_measured
from opsin.training.run import FinalScores, TrainReport, run_training


def train_simclr(
    config: SimclrConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport[SimclrSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source is not looked at. Raises DataError when the data cannot be used for this, and what
    `Trainer.fit` raises.
    """
    splits = open_splits(config)

    def measure(model: Path, metrics: Mapping[str, float]) -> FinalScores:
        return _compare(metrics[KNN_ACCURACY], config, splits) if KNN_ACCURACY in metrics else FinalScores()

    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure, resume=resume, quiet=quiet)


def build_task(config: SimclrConfig, splits: SimclrSplits) -> SimclrTask:
    """The task of a run, with a model initialized from the run's seed."""
    preprocessing = preprocessing_for(splits.train, config.image_size)
    with seeded(config.seed, "weights"):
        model = build_model(config)
    return SimclrTask(model, config, preprocessing, splits)


def _compare(accuracy: float, config: SimclrConfig, splits: SimclrSplits) -> FinalScores:
    """The accuracy of nearest neighbors beside always guessing the largest class, and beside the network that the run
    began with."""
    assert splits.val is not None
    labels = np.concatenate([batch["label"].numpy() for batch in batches_of(splits.val, 256)])
    labels = labels[labels != UNLABELLED]
    device = resolve_device(config.training.device)
    untrained = build_task(config, splits).to(device).eval().knn_accuracy()
    name = "the same network untrained"
    guessing = compare_accuracy(accuracy, labels, splits.num_classes, ADVICE)
    return FinalScores({}, (guessing, compare_measured("accuracy", accuracy, name, untrained, len(labels), ADVICE)))
