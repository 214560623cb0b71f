"""The data of a run: which images are for what, the same whenever they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import (
    CaptionDataset,
    ImageCaptionDataset,
    captioned,
    course_caption_dataset,
    image_caption_dataset,
)
from opsin.captioning.vocabulary import Vocabulary
from opsin.data.course_coco import CourseSplit, load_course_coco
from opsin.data.images import Skipped
from opsin.data.sources import ImageSource, open_source
from opsin.data.splits import split_rows
from opsin.errors import ConfigError
from opsin.runtime import derive_seed

COURSE = "course-coco:"


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


def open_splits(config: CaptioningConfig) -> CaptionSplits:
    """Open the data of a run: its splits as batches, and the vocabulary of the training captions."""
    if config.data.startswith(COURSE):
        return _open_course(config)
    source = open_captioned(config.data, config.captions)
    rows = rows_of_run(source, config)
    train = source.select(rows["train"])
    assert train.captions is not None
    vocabulary = Vocabulary.from_texts((text for texts in train.captions for text in texts), config.min_count)

    def dataset(part: ImageSource) -> ImageCaptionDataset:
        return image_caption_dataset(part, vocabulary, config.image_size, config.decoder.max_length)

    return CaptionSplits(
        vocabulary,
        dataset(train),
        dataset(source.select(rows["val"])) if len(rows["val"]) else None,
        dataset(source.select(rows["test"])) if len(rows["test"]) else None,
    )


def open_captioned(ref: str, captions: str = "all") -> ImageSource:
    """The images of a source that have captions, with `all` of them or the `first` one. Raises DataError."""
    source = captioned(open_source(ref))
    assert source.captions is not None
    return replace(source, captions=[texts[:1] for texts in source.captions]) if captions == "first" else source


def rows_of_run(source: ImageSource, config: CaptioningConfig) -> dict[str, np.ndarray]:
    """Row numbers of the images that a run trains on, validates on and is tested on; all but `train` may be empty."""
    rows = split_rows(source, config.val_fraction, config.test_fraction, config.training.seed)
    rows["train"] = _first_of_random_order(rows["train"], config.max_train, config.training.seed)
    rows["val"] = _first_of_random_order(rows["val"], config.max_val, config.training.seed)
    return rows


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


def _first_of_random_order(rows: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """The first `count` of the rows in an order that the seed decides, sorted; all of them for None."""
    if count is None:
        return rows
    order = np.random.default_rng(derive_seed(seed, "max_train")).permutation(len(rows))
    return rows[np.sort(order[:count])]
