"""One CLIP run from its config to a model directory with measured scores."""

from __future__ import annotations

from pathlib import Path

from opsin.clip.config import ClipConfig
from opsin.clip.data import CaptionedImages, open_splits
from opsin.clip.evaluation import measure_run
from opsin.clip.task import build_task
from opsin.data.datasets import Splits
from opsin.progress import Progress
from opsin.training.run import TrainReport, run_training


def train_clip(
    config: ClipConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[Splits[CaptionedImages]]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)
