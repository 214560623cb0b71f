"""One captioning run from its config to a model directory with measured scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import CaptionDataset, ImageCaptionDataset
from opsin.captioning.evaluation import evaluate_dataset
from opsin.captioning.image_captioner import build_model
from opsin.captioning.inference import Captioner
from opsin.captioning.splits import CaptionSplits, open_splits
from opsin.captioning.task import CaptioningTask
from opsin.data.datasets import preprocessing_for
from opsin.runtime import seeded
from opsin.training.run import FinalScores, TrainReport, measure_model, run_training

logger = logging.getLogger(__name__)


def train_captioner(
    config: CaptioningConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport[CaptionSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config, quiet=quiet)

    def measure(model: Path, metrics: Mapping[str, float]) -> FinalScores:
        return _measure(model, config, splits)

    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure, resume=resume, quiet=quiet)


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


def _measure(model: Path, config: CaptioningConfig, splits: CaptionSplits) -> FinalScores:
    """All that was held out, with a warning of captions that have collapsed."""
    held_out = {name: dataset for name, dataset in splits.datasets.items() if name != "train"}
    if not held_out:
        return FinalScores()
    captioner = Captioner.from_pretrained(model, config.training.device, config.training.precision)
    training_captions = splits.train.table.all_references()

    def score(dataset: CaptionDataset, name: str) -> FinalScores:
        result = evaluate_dataset(captioner, dataset, beams=1 if name == "val" else config.beams)
        if collapse := result.collapse(name):
            logger.warning("%s", collapse)
        return FinalScores(result.summary(name), result.baselines(training_captions))

    return measure_model(captioner, model, held_out, score)
