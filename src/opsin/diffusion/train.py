"""One diffusion run from its config to a model directory."""

from __future__ import annotations

from pathlib import Path

from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.data import DiffusionSplits, open_splits
from opsin.diffusion.model import build_model
from opsin.diffusion.task import DiffusionTask
from opsin.diffusion.text import load_text_encoder
from opsin.encoders.base import TextEncoder
from opsin.runtime import seeded
from opsin.training.run import TrainReport, run_training


def train_diffusion(
    config: DiffusionConfig,
    directory: str | Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    text_encoder: TextEncoder | None = None,
) -> TrainReport[DiffusionSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    `text_encoder` takes the place of the one that the config names. Raises DataError when the data cannot be used for
    this, what the text encoder raises, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, text_encoder or load_text_encoder(config.text_encoder, config.training.device))
    return run_training(config, directory, build_task(config, splits), splits, resume=resume, quiet=quiet)


def build_task(config: DiffusionConfig, splits: DiffusionSplits) -> DiffusionTask:
    """The task of a run, with a model initialized from the run's seed."""
    with seeded(config.seed, "weights"):
        model = build_model(config.model, config.process, config.image_size, splits.features.shape[1])
    model.fit_texts(splits.train_features)
    return DiffusionTask(model, config, splits)
