"""The data of a run: which images are for what, and batches of images with their place in a table of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opsin.clip.config import ClipConfig
from opsin.data.captioned import with_captions
from opsin.data.datasets import ImageDataset, image_dataset
from opsin.data.repeats import warn_of_repeats
from opsin.data.splits import division_digest, split_rows
from opsin.errors import ConfigError
from opsin.images.opening import Skipped
from opsin.runtime import derive_seed
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source

OTHER_STYLE = "other-style"
"""The split of what was trained on in other drawing styles only."""


class CaptionedImages:
    """Batches {"image": uint8 (N, 3, S, S), "row": int64 (N,), "group": int64 (N,)}; `row` is the image's place in
    `source`, and images of one group have the same first caption."""

    def __init__(self, source: ImageSource, images: ImageDataset) -> None:
        """`images` must give each image's row in `source` as its label: broken images leave gaps."""
        assert source.captions is not None
        self.source = source
        self.images = images
        self.captions: Sequence[tuple[str, ...]] = source.captions
        self.groups = torch.from_numpy(caption_groups(self.captions))
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.images.__getitems__(indices)
        return {"image": batch["image"], "row": batch["label"], "group": self.groups[batch["label"]]}


@dataclass(frozen=True)
class ClipSplits:
    """The data of a run; all but `train` may be absent."""

    train: CaptionedImages
    val: CaptionedImages | None
    test: CaptionedImages | None
    other_style: CaptionedImages | None
    source_digest: str | None = None
    """See `division_digest`."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of any split that were left out, each once."""
        parts = (part for part in (self.train, self.val, self.test, self.other_style) if part is not None)
        return tuple(dict.fromkeys(row for part in parts for row in part.skipped))


def open_splits(config: ClipConfig) -> ClipSplits:
    """Open the data of a run. Raises DataError when it has no captions or nothing to train on."""
    source = open_captioned(config.data, config.captions, config.exclude)
    rows = rows_of_run(source, config)
    warn_of_repeats(source, rows)

    def dataset(split: str) -> CaptionedImages | None:
        return captioned_images(source.select(rows[split]), config.image_size) if len(rows[split]) else None

    train = dataset("train")
    assert train is not None
    return ClipSplits(train, dataset("val"), dataset("test"), dataset(OTHER_STYLE), division_digest(source))


def open_captioned(ref: str, captions: str = "all", exclude: Sequence[str] = ()) -> ImageSource:
    """The images of a source that have a caption that is not blank, with `all` of those or the `first`."""
    source = with_captions(open_source(ref, labels=False, exclude=exclude), str.strip)
    assert source.captions is not None
    return replace(source, captions=[texts[:1] for texts in source.captions]) if captions == "first" else source


def captioned_images(source: ImageSource, image_size: int) -> CaptionedImages:
    """Batches of the images of a source that all have captions."""
    # The dataset leaves broken images out; labels tell which rows the others have.
    numbered = replace(source, labels=np.arange(len(source)), class_names=None)
    return CaptionedImages(source, image_dataset(numbered, image_size))


def caption_groups(captions: Sequence[tuple[str, ...]]) -> np.ndarray:
    """int64 (N,): the number of each image's first caption among all different ones, in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(texts[0], len(numbers)) for texts in captions], dtype=np.int64)


def rows_of_run(source: ImageSource, config: ClipConfig) -> dict[str, np.ndarray]:
    """Row numbers of the images that a run trains on, validates on and is tested on; all but `train` may be empty."""
    rows = split_rows(source, config.val_fraction, config.test_fraction, config.training.seed)
    if config.train_on == "all":
        nothing = np.zeros(0, dtype=np.int64)
        rows = {"train": np.sort(np.concatenate(list(rows.values()))), "val": nothing, "test": nothing}
    held_out = np.zeros(0, dtype=np.int64)
    if config.held_out_style is not None:
        is_held_out = _is_of_style(source, config.held_out_style)[rows["train"]]
        held_out, rows["train"] = rows["train"][is_held_out], rows["train"][~is_held_out]
    rows["train"] = _some(rows["train"], config.max_train, config.training.seed)
    rows["val"] = _some(rows["val"], config.max_val, config.training.seed)
    rows[OTHER_STYLE] = held_out
    return rows


def _is_of_style(source: ImageSource, style: str) -> np.ndarray:
    styles = source.metadata.get("style", np.zeros(0))
    known = sorted(set(styles.tolist()))
    if style not in known or len(known) == 1:
        raise ConfigError(
            f"held_out_style {style!r} cannot be held out of {source.name!r}, which has "
            + (f"the styles {', '.join(known)}" if known else "no drawing styles")
        )
    return styles == style


def _some(rows: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """`count` of the rows, chosen by the seed, sorted; all of them for None."""
    if count is None:
        return rows
    order = np.random.default_rng(derive_seed(seed, "some")).permutation(len(rows))
    return rows[np.sort(order[:count])]
