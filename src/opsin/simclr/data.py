"""The data of a run: which images are trained on, and which ones the features are tried on in between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from opsin.data.datasets import ImageDataset, image_dataset
from opsin.data.repeats import warn_of_repeats
from opsin.data.splits import division_digest, split_rows
from opsin.errors import DataError
from opsin.images.opening import Skipped
from opsin.runtime import derive_seed
from opsin.simclr.config import SimclrConfig
from opsin.sources.image_source import UNLABELLED, ImageSource

MOST_VALIDATED = 1_000
MOST_NEIGHBOURS = 5_000
"""Images that a validation looks at, at most, and training images among which it looks for their neighbours: all of
them would take longer than what is trained in between."""


@dataclass(frozen=True)
class SimclrData:
    """Training images; and where there are any, held-out ones, and those training images among which a validation
    looks for their neighbours, whose labels are known."""

    train: ImageDataset
    val: ImageDataset | None
    bank: ImageDataset | None
    num_classes: int
    digest: str | None = None
    """Of the whole source; see `division_digest`."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that were left out, each once."""
        return tuple(dict.fromkeys([*self.train.skipped, *(self.val.skipped if self.val else [])]))


class SomeImages:
    """Some rows of another dataset."""

    def __init__(self, images: ImageDataset, rows: np.ndarray) -> None:
        self.images = images
        self.rows = rows
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self.images.__getitems__(self.rows[indices].tolist())


def open_data(source: ImageSource, config: SimclrConfig) -> SimclrData:
    """The images of a source that a run uses. Neighbours need labels of at least two classes.

    Raises DataError for a single training image.
    """
    rows = rows_of_run(source, config)
    warn_of_repeats(source, rows)
    seed = config.training.seed
    train = image_dataset(source.select(rows["train"]), config.image_size)
    if len(train) == 1:
        own_val = source.splits is not None and "val" in source.splits
        beside = ""
        if len(rows["val"]) and not own_val and config.max_train != 1:
            beside = f" beside {len(rows['val'])} held out to validate on (--val-fraction 0 trains on all)"
        raise DataError(
            f"there is one image only to train on, of {source.name!r}{beside}; learning to tell images apart takes at "
            "least two"
        )
    validated = _some(rows["val"], MOST_VALIDATED, derive_seed(seed, "validated"))
    val = image_dataset(source.select(validated), config.image_size) if len(validated) else None
    bank = None
    if _has_classes(source, rows["train"], validated):
        bank = SomeImages(train, _some(np.arange(len(train)), MOST_NEIGHBOURS, derive_seed(seed, "neighbours")))
    return SimclrData(train, val, bank, len(source.class_names or ()), division_digest(source))


def _has_classes(source: ImageSource, train: np.ndarray, val: np.ndarray) -> bool:
    """Whether at least half of these images have labels, the training images of at least two classes."""
    if source.labels is None:
        return False
    known = [source.labels[rows] != UNLABELLED for rows in (train, val) if len(rows)]
    classes = set(source.labels[train].tolist()) - {UNLABELLED}
    return len(classes) > 1 and all(part.mean() >= 0.5 for part in known)


def rows_of_run(source: ImageSource, config: SimclrConfig) -> dict[str, np.ndarray]:
    """Row numbers that a run of these settings uses for `train`, `val` and `test`; see `split_rows`."""
    rows = split_rows(source, config.val_fraction, 0.0, config.training.seed)
    if config.max_train is not None:
        rows["train"] = _some(rows["train"], config.max_train, derive_seed(config.training.seed, "max_train"))
    return rows


def _some(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The first `count` of the rows in an order that the seed decides, sorted."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[np.sort(order[:count])]
