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
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.captioning.task import CaptioningTask
from opsin.config import to_dict
from opsin.data.datasets import preprocessing_for
from opsin.runtime import seeded
from opsin.training.baselines import BaselineComparison
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
    baselines: tuple[BaselineComparison, ...] = ()
    if trainer.fabric.is_global_zero:
        added, baselines = _measure(trainer.run.model, splits, config)
        metrics |= added
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
        baselines=baselines,
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


def _measure(
    model_directory: Path, splits: CaptionSplits, config: CaptioningConfig
) -> tuple[dict[str, float], tuple[BaselineComparison, ...]]:
    """Measure the exported model on all that was held out, write the scores of what is kept for the end into its
    directory, and warn of captions that have collapsed. With these scores comes the comparison of the test split, or
    else of the validation split, with its baseline."""
    parts = {"val": splits.val, "test": splits.test, "other_style": splits.other_style}
    measured = {name: dataset for name, dataset in parts.items() if dataset is not None}
    added: dict[str, float] = {}
    baselines: tuple[BaselineComparison, ...] = ()
    if not measured:
        return added, baselines
    captioner = Captioner.from_pretrained(model_directory, config.training.device, config.training.precision)
    training_captions = splits.train.table.all_references()
    for name, dataset in measured.items():
        result = evaluate_dataset(captioner, dataset, beams=1 if name == "val" else config.beams)
        if collapse := result.collapse(name):
            logger.warning("%s", collapse)
        if name != "val":
            added |= result.summary(name)
        if name == ("val" if splits.test is None else "test"):
            baselines = result.baselines(training_captions)
    if added:
        captioner.metrics |= added
        captioner.save_pretrained(model_directory)
    return added, baselines
