"""One diffusion run from its config to a model directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsin.config import to_dict
from opsin.diffusion.config import DiffusionConfig
from opsin.diffusion.data import DiffusionSplits, open_splits
from opsin.diffusion.model import build_model
from opsin.diffusion.task import DiffusionTask
from opsin.diffusion.text import load_text_encoder
from opsin.encoders.base import TextEncoder
from opsin.runtime import seeded
from opsin.training.report import TrainReport
from opsin.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class DiffusionReport(TrainReport):
    """What a run of a diffusion model left, besides."""

    num_texts: int


def train_diffusion(
    config: DiffusionConfig,
    directory: str | Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    text_encoder: TextEncoder | None = None,
) -> DiffusionReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    `text_encoder` takes the place of the one that the config names. Raises DataError when the data cannot be used for
    this, what the text encoder raises, and what `Trainer.fit` raises.
    """
    encoder = text_encoder or load_text_encoder(config.text_encoder, config.training.device)
    splits = open_splits(config, encoder)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(build_task(config, splits), splits.train, to_dict(config), resume=resume)
    return DiffusionReport(
        model=trainer.run.model,
        metrics=dict(result.metrics),
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(splits.train),
        num_texts=len(splits.texts),
        skipped=splits.skipped,
        needs=encoder.name,
    )


def build_task(config: DiffusionConfig, splits: DiffusionSplits) -> DiffusionTask:
    """The task of a run, with a model initialised from the run's seed."""
    with seeded(config.training.seed, "weights"):
        model = build_model(config.model, config.process, config.image_size, splits.features.shape[1])
    model.fit_texts(splits.train_features)
    return DiffusionTask(model, config, splits)
