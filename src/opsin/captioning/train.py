"""One captioning run from its config to a model directory with measured scores."""

from __future__ import annotations

from pathlib import Path

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.evaluation import measure_run
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.captioning.task import build_task
from opsin.progress import Progress
from opsin.training.run import TrainReport, run_training


def train_captioner(
    config: CaptioningConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[CaptionSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, progress=progress)
    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)
