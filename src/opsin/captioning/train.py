"""One captioning run from its config to a model directory with measured scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import CaptionDataset, ImageCaptionDataset
from opsin.captioning.evaluation import evaluate_dataset
from opsin.captioning.image_captioner import build_model
from opsin.captioning.inference import Captioner
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.captioning.task import CaptioningTask
from opsin.config import to_dict
from opsin.data.datasets import PixelDataset
from opsin.data.images import Skipped
from opsin.data.preprocessing import Preprocessing, channel_statistics
from opsin.runtime import derive_seed
from opsin.training.trainer import Trainer


@dataclass(frozen=True)
class TrainReport:
    """What a run left: where the model is, its metrics, how it was made, and what could not be used."""

    model: Path
    metrics: dict[str, float]
    steps: int
    seconds: float
    num_train: int
    num_words: int
    cut: int
    """Training captions that were too long and were learned without their end."""
    skipped: tuple[Skipped, ...]


def train_captioner(
    config: CaptioningConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split, where there is one, is looked at once, after training. Raises DataError when the data cannot be used
    for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = build_task(config, splits)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(task, splits.train, to_dict(config), resume=resume)
    metrics = dict(result.metrics)
    if trainer.fabric.is_global_zero and splits.test is not None:
        metrics |= _add_test_metrics(trainer.run.model, splits.test, config.beams)
    return TrainReport(
        model=trainer.run.model,
        metrics=metrics,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(splits.train),
        num_words=len(splits.vocabulary),
        cut=splits.train.table.cut,
        skipped=splits.skipped,
    )


def build_task(config: CaptioningConfig, splits: CaptionSplits) -> CaptioningTask:
    """The task of a run, with a model initialised from the run's seed."""
    preprocessing = Preprocessing(image_size=config.image_size)
    if isinstance(splits.train, ImageCaptionDataset) and isinstance(splits.train.images, PixelDataset):
        mean, std = channel_statistics(splits.train.images.pixels.numpy())
        preprocessing = replace(preprocessing, mean=mean, std=std)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.training.seed, "weights"))
        model = build_model(config.encoder, config.decoder, config.image_size, splits.vocabulary, splits.feature_dim)
    return CaptioningTask(model, config, splits.vocabulary, preprocessing, splits.val, splits.feature_dim)


def _add_test_metrics(model_directory: Path, test: CaptionDataset, beams: int) -> dict[str, float]:
    """Measure the exported model on the test split and write the result into its directory."""
    captioner = Captioner.from_pretrained(model_directory)
    added = evaluate_dataset(captioner, test, beams=beams).summary("test")
    captioner.metrics |= added
    captioner.save_pretrained(model_directory)
    return added
