"""One diffusion run from its config to a model directory."""

from __future__ import annotations

from pathlib import Path

from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.data import DiffusionSplits, open_splits
from opsin.diffusion.task import build_task
from opsin.diffusion.text import load_text_encoder
from opsin.encoders.base import TextEncoder
from opsin.progress import Progress
from opsin.training.run import TrainReport, run_training


def train_diffusion(
    config: DiffusionConfig,
    directory: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    text_encoder: TextEncoder | None = None,
) -> TrainReport[DiffusionSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    `text_encoder` takes the place of the one that the config names. Raises DataError when the data cannot be used for
    this, what the text encoder raises, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, text_encoder or load_text_encoder(config.text_encoder, config.training.device))
    return run_training(config, directory, build_task(config, splits), splits, resume=resume, progress=progress)
