"""One captioning run from its config to a model directory with measured scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import (
    CaptionDataset,
    ImageCaptionDataset,
    captioned,
    course_caption_dataset,
    image_caption_dataset,
)
from opsin.captioning.evaluation import evaluate_dataset
from opsin.captioning.image_captioner import build_model
from opsin.captioning.inference import Captioner
from opsin.captioning.task import CaptioningTask
from opsin.captioning.vocabulary import Vocabulary
from opsin.config import to_dict
from opsin.data.course_coco import CourseSplit, load_course_coco
from opsin.data.datasets import PixelDataset
from opsin.data.images import Skipped
from opsin.data.preprocessing import Preprocessing, channel_statistics
from opsin.data.sources import ImageSource, open_source
from opsin.data.splits import split_rows
from opsin.errors import ConfigError
from opsin.runtime import derive_seed
from opsin.training.trainer import Trainer

COURSE = "course-coco:"


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


@dataclass(frozen=True)
class CaptionSplits:
    """The data of a run. `feature_dim` is the width of the features that take the place of images, if they do."""

    vocabulary: Vocabulary
    train: CaptionDataset
    val: CaptionDataset | None
    test: CaptionDataset | None
    feature_dim: int | None = None

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of any split that were left out, each once."""
        parts = (part for part in (self.train, self.val, self.test) if part is not None)
        return tuple(dict.fromkeys(row for part in parts for row in part.skipped))


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


def open_splits(config: CaptioningConfig) -> CaptionSplits:
    """Open the data of a run: its splits as batches, and the vocabulary of the training captions."""
    if config.data.startswith(COURSE):
        return _open_course(config)
    source = captioned(open_source(config.data))
    if config.captions == "first":
        assert source.captions is not None
        source = replace(source, captions=[texts[:1] for texts in source.captions])
    rows = split_rows(source, config.val_fraction, config.test_fraction, config.training.seed)
    train = source.select(_first_of_random_order(rows["train"], config.max_train, config.training.seed))
    assert train.captions is not None
    vocabulary = Vocabulary.from_texts((text for texts in train.captions for text in texts), config.min_count)

    def dataset(part: ImageSource) -> ImageCaptionDataset:
        return image_caption_dataset(part, vocabulary, config.image_size, config.decoder.max_length)

    val = _first_of_random_order(rows["val"], config.max_val, config.training.seed)
    return CaptionSplits(
        vocabulary,
        dataset(train),
        dataset(source.select(val)) if len(val) else None,
        dataset(source.select(rows["test"])) if len(rows["test"]) else None,
    )


def _open_course(config: CaptioningConfig) -> CaptionSplits:
    """The course's features, with its own vocabulary and its own validation split."""
    data = load_course_coco(Path(config.data.removeprefix(COURSE)).expanduser())
    vocabulary = Vocabulary.from_mapping(data.word_to_idx)
    longest = data.train.captions.shape[1]
    if config.decoder.max_length < longest:
        raise ConfigError(
            f"the captions of {config.data!r} have {longest} tokens, and decoder.max_length is "
            f"{config.decoder.max_length}"
        )

    def dataset(part: CourseSplit, count: int | None) -> CaptionDataset:
        images = _first_of_random_order(np.unique(part.image_idxs), count, config.training.seed)
        chosen = np.flatnonzero(np.isin(part.image_idxs, images))
        if config.captions == "first":
            chosen = chosen[np.unique(part.image_idxs[chosen], return_index=True)[1]]
        return course_caption_dataset(
            replace(part, captions=part.captions[chosen], image_idxs=part.image_idxs[chosen]), vocabulary
        )

    return CaptionSplits(
        vocabulary,
        dataset(data.train, config.max_train),
        dataset(data.val, config.max_val),
        None,
        feature_dim=data.train.features.shape[1],
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


def _first_of_random_order(rows: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """The first `count` of the rows in an order that the seed decides, sorted; all of them for None."""
    if count is None:
        return rows
    order = np.random.default_rng(derive_seed(seed, "max_train")).permutation(len(rows))
    return rows[np.sort(order[:count])]


def _add_test_metrics(model_directory: Path, test: CaptionDataset, beams: int) -> dict[str, float]:
    """Measure the exported model on the test split and write the result into its directory."""
    captioner = Captioner.from_pretrained(model_directory)
    added = evaluate_dataset(captioner, test, beams=beams).summary("test")
    captioner.metrics |= added
    captioner.save_pretrained(model_directory)
    return added
