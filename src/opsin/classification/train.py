"""One classification run from its config to a model directory with measured scores."""

from __future__ import annotations

from pathlib import Path

from opsin.classification.config import ClassificationConfig
from opsin.classification.data import ClassSplits, open_splits
from opsin.classification.evaluation import measure_run
from opsin.classification.task import build_task
from opsin.progress import Progress
from opsin.training.run import TrainReport, run_training


def train_classifier(
    config: ClassificationConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[ClassSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source, where it has one, is evaluated once, after training. Raises DataError when the data
    cannot be used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)
