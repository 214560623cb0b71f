"""One CLIP run from its config to a model directory with measured scores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from opsin.clip.config import ClipConfig
from opsin.clip.data import ClipSplits, open_splits
from opsin.clip.evaluation import compare_with_chance, evaluate_dataset, summary
from opsin.clip.task import ClipTask, text_tower_options
from opsin.config import to_dict
from opsin.data.datasets import preprocessing_for
from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import check_captions
from opsin.encoders.local_clip import LocalClipEncoder
from opsin.errors import DataError
from opsin.nn.dual_encoder import build_dual_encoder
from opsin.runtime import seeded
from opsin.training.baselines import BaselineComparison
from opsin.training.report import TrainReport
from opsin.training.trainer import Trainer

MOST_TRAINING_IMAGES = 10_000
"""Larger training sets are not searched at the end of a run: their scores would say little, and take long."""


def train_clip(config: ClipConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False) -> TrainReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test splits, where there are any, are looked at once, after training. Raises DataError when the data cannot be
    used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = build_task(config, splits)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(task, splits.train, to_dict(config), resume=resume)
    metrics = dict(result.metrics)
    baselines: tuple[BaselineComparison, ...] = ()
    if trainer.fabric.is_global_zero:
        metrics, baselines = _add_final_metrics(trainer.run.model, metrics, splits, config)
    return TrainReport(
        model=trainer.run.model,
        metrics=metrics,
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(splits.train),
        skipped=splits.skipped,
        baselines=baselines,
    )


def build_task(config: ClipConfig, splits: ClipSplits) -> ClipTask:
    """The task of a run, with a tokenizer made for its captions and a model initialised from its seed."""
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
    with seeded(config.training.seed, "weights"):
        text = text_tower_options(config, tokenizer)
        model = build_dual_encoder(config.image_size, config.embed_dim, asdict(config.image), text)
    return ClipTask(model, config, tokenizer, preprocessing, train, splits.val, splits.source_digest)


def _add_final_metrics(
    directory: Path, metrics: dict[str, float], splits: ClipSplits, config: ClipConfig
) -> tuple[dict[str, float], tuple[BaselineComparison, ...]]:
    """Measure the exported model on the training images and on what is kept for the end, and note it in its files. With
    the scores comes their comparison with chance, on the test split, or else on the validation split."""
    encoder = LocalClipEncoder.from_pretrained(directory, config.training.device)
    parts = {"train": splits.train, "test": splits.test, "other_style": splits.other_style}
    compared = "val" if splits.test is None else "test"
    if splits.test is None:
        parts["val"] = splits.val
    baselines: tuple[BaselineComparison, ...] = ()
    for name, dataset in parts.items():
        if dataset is None or (name == "train" and len(dataset) > MOST_TRAINING_IMAGES):
            continue
        precision = config.training.precision
        scores = evaluate_dataset(encoder.model, encoder.tokenizer, encoder.preprocessing, dataset, precision)
        if name == compared:
            baselines = compare_with_chance(scores)
        if name != "val":  # whose scores are those of the last validation
            metrics |= summary(scores, name)
    encoder.metrics = metrics
    encoder.save_pretrained(directory)
    return metrics, baselines
