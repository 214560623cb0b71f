"""One SimCLR run from its config to a model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from opsin.data.datasets import batches_of
from opsin.probing.evaluation import ADVICE
from opsin.runtime import resolve_device
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrSplits, open_splits
from opsin.simclr.task import KNN_ACCURACY, build_task
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
    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, quiet=quiet)


def measure_run(config: SimclrConfig, splits: SimclrSplits, model: Path, metrics: Mapping[str, float]) -> FinalScores:
    """The accuracy of nearest neighbors beside always guessing the largest class, and beside the network that the run
    began with, for `run_training`."""
    if KNN_ACCURACY not in metrics or splits.val is None:
        return FinalScores()
    accuracy = metrics[KNN_ACCURACY]
    labels = np.concatenate([batch["label"].numpy() for batch in batches_of(splits.val, 256)])
    labels = labels[labels != UNLABELLED]
    device = resolve_device(config.training.device)
    untrained = build_task(config, splits).to(device).eval().knn_accuracy()
    name = "the same network untrained"
    guessing = compare_accuracy(accuracy, labels, splits.num_classes, ADVICE)
    return FinalScores({}, (guessing, compare_measured("accuracy", accuracy, name, untrained, len(labels), ADVICE)))
