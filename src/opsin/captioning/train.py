"""One captioning run from its config to a model directory with measured scores."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import ImageCaptionDataset
from opsin.captioning.evaluation import evaluate_dataset
from opsin.captioning.image_captioner import build_model
from opsin.captioning.inference import Captioner
from opsin.captioning.metrics import have_collapsed
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.captioning.task import CaptioningTask
from opsin.config import to_dict
from opsin.data.datasets import preprocessing_for
from opsin.runtime import seeded
from opsin.training.report import TrainReport
from opsin.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaptionerReport(TrainReport):
    """What a run of a captioner left, besides."""

    num_words: int
    takes_images: bool
    """Whether the model describes images; else features that were computed elsewhere."""
    cut: int
    """Training captions that were too long and were learned without their end."""


def train_captioner(
    config: CaptioningConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> CaptionerReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are looked at once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, quiet=quiet)
    task = build_task(config, splits)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(task, splits.train, to_dict(config), resume=resume)
    metrics = dict(result.metrics)
    if trainer.fabric.is_global_zero:
        metrics |= _add_test_metrics(trainer.run.model, splits, config)
        _warn_of_collapse(metrics, splits)
    return CaptionerReport(
        model=trainer.run.model,
        metrics=metrics,
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(splits.train),
        num_words=len(splits.vocabulary),
        takes_images=splits.feature_dim is None or config.frozen_encoder is not None,
        cut=splits.train.table.cut,
        skipped=splits.skipped,
        needs=config.frozen_encoder,
    )


def build_task(config: CaptioningConfig, splits: CaptionSplits) -> CaptioningTask:
    """The task of a run, with a model initialised from the run's seed."""
    images = splits.train.images if isinstance(splits.train, ImageCaptionDataset) else None
    preprocessing = preprocessing_for(images, config.image_size)
    with seeded(config.training.seed, "weights"):
        model = build_model(config.encoder, config.decoder, config.image_size, splits.vocabulary, splits.feature_dim)
    mean_length = splits.train.table.mean_length
    return CaptioningTask(
        model,
        config,
        splits.vocabulary,
        preprocessing,
        splits.val,
        mean_length,
        splits.feature_dim,
        splits.encoder_fingerprint,
        splits.source_digest,
    )


def _add_test_metrics(model_directory: Path, splits: CaptionSplits, config: CaptioningConfig) -> dict[str, float]:
    """Measure the exported model on the splits that are kept for the end, and write the results into its directory."""
    tests = {"test": splits.test, "other_style": splits.other_style}
    added: dict[str, float] = {}
    if splits.test is None and splits.other_style is None:
        return added
    captioner = Captioner.from_pretrained(model_directory, config.training.device, config.training.precision)
    for name, dataset in tests.items():
        if dataset is not None:
            added |= evaluate_dataset(captioner, dataset, beams=config.beams).summary(name)
    captioner.metrics |= added
    captioner.save_pretrained(model_directory)
    return added


def _warn_of_collapse(metrics: dict[str, float], splits: CaptionSplits) -> None:
    measured = {"val": splits.val, "test": splits.test, "other_style": splits.other_style}
    for name, dataset in measured.items():
        ratio = metrics.get(f"{name}_distinct_ratio")
        if dataset is not None and ratio is not None and have_collapsed(ratio, len(dataset)):
            logger.warning(
                "the captions have collapsed: all %d images of the split %r got one and the same", len(dataset), name
            )
