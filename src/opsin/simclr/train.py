"""One SimCLR run from its config to a model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from opsin.checkpoint import load_pretrained
from opsin.data.datasets import batches_of
from opsin.probing.evaluation import ADVICE
from opsin.progress import Progress
from opsin.runtime import resolve_device
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrSplits, open_splits
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.task import KNN_ACCURACY, build_task
from opsin.state_dicts import load_state_dict
from opsin.training.baselines import UNTRAINED, compare_accuracy, compare_paired
from opsin.training.run import FinalScores, TrainReport, run_training


def train_simclr(
    config: SimclrConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[SimclrSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source is not looked at. Raises DataError when the data cannot be used for this, and what
    `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)


def measure_run(config: SimclrConfig, splits: SimclrSplits, model: Path, metrics: Mapping[str, float]) -> FinalScores:
    """The accuracy of nearest neighbors beside always guessing the largest class, and beside the network that the run
    began with, for `run_training`."""
    if KNN_ACCURACY not in metrics or splits.val is None:
        return FinalScores()
    labels = np.concatenate([batch["label"].numpy() for batch in batches_of(splits.val, 256)])
    task = build_task(config, splits).to(resolve_device(config.training.device)).eval()
    untrained = task.knn_right()
    load_state_dict(task.model, load_pretrained(model, kind=SimclrEncoder.kind)[1], str(model))
    right = task.knn_right()
    guessing = compare_accuracy(float(right.mean()), labels, ADVICE)
    return FinalScores({}, (*guessing, compare_paired("accuracy", right, UNTRAINED, untrained, ADVICE)))
