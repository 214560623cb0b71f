"""The data of a run: which images are for what, the same whenever they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import (
    CaptionDataset,
    CaptionTable,
    FeatureCaptionDataset,
    ImageCaptionDataset,
    captioned,
    course_caption_dataset,
    encoded_caption_dataset,
    image_caption_dataset,
)
from opsin.captioning.vocabulary import Vocabulary, tokenise
from opsin.counts import number_of
from opsin.data.course_coco import CourseSplit, load_course_coco
from opsin.data.parts import first_of_random_order
from opsin.data.repeats import warn_of_repeats
from opsin.data.splits import division_digest, split_rows
from opsin.data.unread import examples
from opsin.encoders import load
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import ConfigError
from opsin.images.opening import Skipped
from opsin.runtime import derive_seed, is_first_process
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source

logger = logging.getLogger(__name__)

COURSE = "course-coco:"
OTHER_STYLE = "other-style"
"""The split of what was trained on in another drawing style only."""


@dataclass(frozen=True)
class CaptionSplits:
    """The data of a run. `feature_dim` is the width of the features that take the place of images, if they do, and
    `encoder_fingerprint` tells the frozen encoder that gave them from others."""

    vocabulary: Vocabulary
    train: CaptionDataset
    val: CaptionDataset | None
    test: CaptionDataset | None
    other_style: CaptionDataset | None = None
    feature_dim: int | None = None
    encoder_fingerprint: str | None = None
    source_digest: str | None = None
    """See `division_digest`; None for features."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of any split that were left out, each once."""
        parts = (part for part in (self.train, self.val, self.test, self.other_style) if part is not None)
        return tuple(dict.fromkeys(row for part in parts for row in part.skipped))


def open_splits(config: CaptioningConfig, *, quiet: bool = False) -> CaptionSplits:
    """Open the data of a run: its splits as batches, and the vocabulary of the training captions.

    With a frozen encoder the features of all splits are computed here, unless they are in the cache; progress is shown
    on stderr unless `quiet`.
    """
    if config.data.startswith(COURSE):
        return _open_course(config)
    source = open_captioned(config.data, config.captions, config.exclude)
    rows = rows_of_run(source, config)
    warn_of_repeats(source, rows)
    train = source.select(rows["train"])
    assert train.captions is not None
    vocabulary = Vocabulary.from_texts((text for texts in train.captions for text in texts), config.min_count)

    encoder = weights = None
    if config.frozen_encoder is not None:
        encoder = load(config.frozen_encoder, config.training.device, config.training.precision)
        weights = fingerprint(encoder)
    longest = config.decoder.max_length

    def dataset(split: str) -> ImageCaptionDataset | FeatureCaptionDataset | None:
        if len(rows[split]) == 0:
            return None
        part = source.select(rows[split])
        if encoder is not None:
            return encoded_caption_dataset(part, vocabulary, encoder, longest, quiet=quiet)[0]
        return image_caption_dataset(part, vocabulary, config.image_size, longest)

    train_set = dataset("train")
    assert train_set is not None
    _warn_of_lost_words(train_set.table, config)
    width = train_set.features.shape[-1] if isinstance(train_set, FeatureCaptionDataset) else None
    return CaptionSplits(
        vocabulary,
        train_set,
        dataset("val"),
        dataset("test"),
        dataset(OTHER_STYLE),
        width,
        weights,
        division_digest(source),
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


def open_captioned(ref: str, captions: str = "all", exclude: Sequence[str] = ()) -> ImageSource:
    """The images of a source that have captions, with `all` of them or the `first` one. Raises DataError."""
    source = captioned(open_source(ref, labels=False, exclude=exclude))
    assert source.captions is not None
    return replace(source, captions=[texts[:1] for texts in source.captions]) if captions == "first" else source


def rows_of_run(source: ImageSource, config: CaptioningConfig) -> dict[str, np.ndarray]:
    """Row numbers of the images that a run trains on, validates on and is tested on; all but `train` may be empty.

    `other-style` are drawings of emoji that are trained on as the other style draws them.
    """
    rows = split_rows(source, config.val_fraction, config.test_fraction, config.training.seed)
    rows["train"] = first_of_random_order(rows["train"], config.max_train, config.training.seed)
    rows["val"] = first_of_random_order(rows["val"], config.max_val, config.training.seed)
    held_out = np.zeros(0, dtype=np.int64)
    if config.style_fraction > 0:
        held_out = _one_style_of_some(source, rows["train"], config.style_fraction, config.training.seed)
    rows["train"] = np.setdiff1d(rows["train"], held_out)
    rows[OTHER_STYLE] = held_out
    return rows


def _one_style_of_some(source: ImageSource, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Of a share of the groups, at least one, all rows of one style, which is drawn anew for each group.

    Only groups that keep rows of another style are drawn from. Raises ConfigError for a source without styles.
    """
    styles = source.metadata.get("style")
    if styles is None or source.groups is None:
        raise _no_styles(source.name)
    styles_of: dict[str, set[str]] = {}
    for group, style in zip(source.groups[rows], styles[rows], strict=True):
        styles_of.setdefault(group, set()).add(style)
    names = sorted(group for group, own in styles_of.items() if len(own) > 1)
    if not names:
        raise _no_styles(source.name)
    generator = np.random.default_rng(derive_seed(seed, "split", OTHER_STYLE))
    chosen = generator.permutation(names)[: max(1, round(fraction * len(names)))]
    held_out = {name: generator.choice(sorted(styles_of[name])) for name in chosen}
    is_held_out = [held_out.get(group) == style for group, style in zip(source.groups[rows], styles[rows], strict=True)]
    return rows[np.array(is_held_out)]


def _no_styles(source: str) -> ConfigError:
    return ConfigError(f"style_fraction holds out a drawing style, and {source!r} has no two of one thing; try emoji")


def _open_course(config: CaptioningConfig) -> CaptionSplits:
    """The course's features, with its own vocabulary and its own validation split."""
    if config.style_fraction > 0:
        raise _no_styles(config.data)
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
        vocabulary,
        dataset("train", data.train, config.max_train),
        dataset("val", data.val, config.max_val),
        None,
        feature_dim=data.train.features.shape[1],
    )
