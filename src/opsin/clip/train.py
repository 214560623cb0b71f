"""One CLIP run from its config to a model directory with measured scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from opsin.clip.config import ClipConfig
from opsin.clip.data import CaptionedImages, open_splits
from opsin.clip.evaluation import compare_with_chance, evaluate_dataset, summary
from opsin.clip.task import ClipTask, text_tower_options
from opsin.data.datasets import Splits, preprocessing_for
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import check_captions
from opsin.encoders.local_clip import LocalClipEncoder
from opsin.errors import DataError
from opsin.nn.dual_encoder import build_dual_encoder
from opsin.runtime import seeded
from opsin.training.run import FinalScores, TrainReport, measure_model, run_training

MOST_TRAINING_IMAGES = 10_000
"""Larger training sets are not searched at the end of a run: their scores would say little, and take long."""


def train_clip(
    config: ClipConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport[Splits[CaptionedImages]]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are evaluated once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)

    def measure(model: Path, metrics: Mapping[str, float]) -> FinalScores:
        return _measure(model, config, splits)

    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure, resume=resume, quiet=quiet)


def build_task(config: ClipConfig, splits: Splits[CaptionedImages]) -> ClipTask:
    """The task of a run, with a tokenizer made for its captions and a model initialized from its seed."""
    train = splits.train
    if len(train) > 0 and len(set(train.groups.tolist())) < 2:
        raise DataError(
            f"all captions of {train.source.name!r} that are trained on are the same, {train.captions[0][0]!r}; there "
            "is nothing to tell apart"
        )
    tokenizer = BpeTokenizer.train(
        (text for texts in train.captions for text in texts), config.text.vocab_size, config.text.max_length
    )
    unread = tokenizer.unread([text for texts in train.captions for text in texts])
    check_captions(unread, "of this run", "give captions in words, or a larger --vocab-size for rare characters")
    preprocessing = preprocessing_for(train.images, config.image_size)
    with seeded(config.seed, "weights"):
        text = text_tower_options(config, tokenizer)
        model = build_dual_encoder(config.image_size, config.embed_dim, asdict(config.image), text)
    return ClipTask(model, config, tokenizer, preprocessing, train, splits.val, splits.source_digest)


def _measure(model: Path, config: ClipConfig, splits: Splits[CaptionedImages]) -> FinalScores:
    """The training images and all that was held out, the validation set only where there is no test set."""
    datasets = dict(splits.datasets)
    if len(splits.train) > MOST_TRAINING_IMAGES:
        del datasets["train"]
    if "test" in datasets:
        datasets.pop("val", None)
    encoder = LocalClipEncoder.from_pretrained(model, config.training.device)

    def score(dataset: CaptionedImages, name: str) -> FinalScores:
        precision = config.training.precision
        scores = evaluate_dataset(encoder.model, encoder.tokenizer, encoder.preprocessing, dataset, precision)
        return FinalScores(summary(scores, name), compare_with_chance(scores))

    return measure_model(encoder, model, datasets, score)
