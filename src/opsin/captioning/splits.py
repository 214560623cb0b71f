"""The data of a run: which images are for what, the same whenever they are asked for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import (
    CaptionDataset,
    CaptionTable,
    FeatureCaptionDataset,
    course_caption_dataset,
    encoded_caption_dataset,
    image_caption_dataset,
)
from opsin.captioning.vocabulary import Vocabulary, tokenise
from opsin.counts import number_of
from opsin.data.captioned import read_texts
from opsin.data.course_coco import CourseSplit, load_course_coco
from opsin.data.datasets import Splits
from opsin.data.splits import first_of_random_order, no_styles
from opsin.data.unread import examples
from opsin.encoders import load
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import ConfigError
from opsin.progress import Progress
from opsin.runtime import is_first_process
from opsin.sources.image_source import ImageSource

logger = logging.getLogger(__name__)

COURSE = "course-coco:"


@dataclass(frozen=True, kw_only=True)
class CaptionSplits(Splits[CaptionDataset]):
    """The data of a run. `feature_dim` is the width of the features that take the place of images, if they do, and
    `encoder_fingerprint` tells the frozen encoder that gave them from others."""

    vocabulary: Vocabulary
    feature_dim: int | None = None
    encoder_fingerprint: str | None = None
    texts: CaptionTable | None = None
    """Captions without images, where there are any."""

    @property
    def takes_images(self) -> bool:
        return self.feature_dim is None or self.encoder_fingerprint is not None


def open_splits(config: CaptioningConfig, *, progress: Progress | None = None) -> CaptionSplits:
    """Open the data of a run: its splits as batches, and the vocabulary of the training captions.

    With a frozen encoder the features of all splits are computed here, unless they are in the cache.
    """
    if config.data.startswith(COURSE):
        return _open_course(config)
    run = config.split()
    captions = run.training.captions or ()
    further = [text for text in read_texts(config.texts) if tokenise(text)] if config.texts else []
    vocabulary = Vocabulary.from_texts([*(text for texts in captions for text in texts), *further], config.min_count)
    encoder = weights = None
    if config.frozen_encoder is not None:
        encoder = load(config.frozen_encoder, config.training.device, config.training.precision)
        weights = fingerprint(encoder)
    longest = config.decoder.max_length

    def dataset(images: ImageSource) -> CaptionDataset:
        if encoder is not None:
            return encoded_caption_dataset(images, vocabulary, encoder, longest, progress=progress)[0]
        return image_caption_dataset(images, vocabulary, config.image_size, longest)

    datasets = {name: dataset(images) for name, images in run.splits.items()}
    train = datasets["train"]
    _warn_of_lost_words(train.table, config)
    return CaptionSplits(
        datasets=datasets,
        source=run,
        needs=config.frozen_encoder,
        vocabulary=vocabulary,
        feature_dim=train.features.shape[-1] if isinstance(train, FeatureCaptionDataset) else None,
        encoder_fingerprint=weights,
        texts=CaptionTable.from_texts([(text,) for text in further], vocabulary, longest) if further else None,
    )


def _warn_of_lost_words(table: CaptionTable, config: CaptioningConfig) -> None:
    """Say what of the training captions is not learned: rare words, and the ends of long captions."""
    parts = []
    captions = [tokenise(text) for texts in table.texts or () for text in texts] if config.min_count > 1 else []
    lost = [[word for word in words if word not in table.vocabulary.word_to_idx] for words in captions]
    if rare := dict.fromkeys(word for words in lost for word in words):
        parts.append(
            f"{sum(map(bool, lost)):,} of {len(lost):,} training captions have words that occur fewer than "
            f"{config.min_count} times and are not learned, {number_of(len(rare), 'word')} in all ({examples(rare)}; "
            "see --min-count)"
        )
    if table.cut:
        parts.append(
            f"{table.cut:,} of {len(table.tokens):,} training captions have more than {config.decoder.max_length - 2} "
            "words and are learned without their end (see --max-length)"
        )
    if parts and is_first_process():
        logger.warning("; ".join(parts))


def _open_course(config: CaptioningConfig) -> CaptionSplits:
    """The course's features, with its own vocabulary and its own validation split."""
    if config.style_fraction > 0:
        raise no_styles(config.data)
    if config.texts:
        raise ConfigError(f"the words of {config.data!r} are given, and texts would bring others; leave texts out")
    if config.exclude:
        raise ConfigError(f"{config.data!r} holds features instead of images, which exclude cannot name; leave it out")
    if config.frozen_encoder is not None:
        raise ConfigError(f"{config.data!r} holds features instead of images; leave frozen_encoder out")
    data = load_course_coco(Path(config.data.removeprefix(COURSE)).expanduser())
    vocabulary = Vocabulary.from_mapping(data.word_to_idx)
    longest = data.train.captions.shape[1]
    if config.decoder.max_length < longest:
        raise ConfigError(
            f"the captions of {config.data!r} have {longest} tokens, and decoder.max_length is "
            f"{config.decoder.max_length}"
        )

    def dataset(name: str, part: CourseSplit, count: int | None) -> CaptionDataset:
        images = first_of_random_order(np.unique(part.image_idxs), count, config.training.seed)
        chosen = np.flatnonzero(np.isin(part.image_idxs, images))
        if config.captions == "first":
            chosen = chosen[np.unique(part.image_idxs[chosen], return_index=True)[1]]
        return course_caption_dataset(part, vocabulary, name, chosen)

    return CaptionSplits(
        datasets={
            "train": dataset("train", data.train, config.max_train),
            "val": dataset("val", data.val, config.max_val),
        },
        vocabulary=vocabulary,
        feature_dim=data.train.features.shape[1],
    )
