"""The data of a run: which images are trained on, and which ones the features are tried on in between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opsin.data.datasets import ImageDataset, Splits, Subset, image_dataset
from opsin.data.splits import first_of_random_order
from opsin.errors import DataError
from opsin.simclr.config import SimclrConfig
from opsin.sources.image_source import UNLABELLED, ImageSource

MOST_VALIDATED = 1_000
MOST_NEIGHBOURS = 5_000
"""Images that a validation looks at, at most, and training images among which it looks for their neighbours: all of
them would take longer than what is trained in between."""


@dataclass(frozen=True, kw_only=True)
class SimclrSplits(Splits[ImageDataset]):
    """Training images, and where there are any, held-out ones. `bank` are those training images, whose labels are
    known, among which a validation looks for their neighbours; None where there are no classes to tell apart."""

    bank: ImageDataset | None
    num_classes: int

    @property
    def is_labelled(self) -> bool:
        return self.bank is not None


def open_splits(config: SimclrConfig) -> SimclrSplits:
    """The images that a run uses. Neighbours need labels of at least two classes.

    Raises DataError when the source cannot be used, and for a single training image.
    """
    run = config.split()
    source, rows = run.source, run.rows
    train = image_dataset(run.training, config.image_size)
    if len(train) == 1:
        own_val = source.splits is not None and "val" in source.splits
        beside = ""
        if len(rows["val"]) and not own_val and config.max_train != 1:
            beside = f" beside {len(rows['val'])} held out to validate on (--val-fraction 0 trains on all)"
        raise DataError(
            f"there is one image only to train on, of {source.name!r}{beside}; learning to tell images apart takes at "
            "least two"
        )
    datasets = {"train": train}
    validated = first_of_random_order(rows["val"], MOST_VALIDATED, config.seed, "validated")
    if len(validated):
        datasets["val"] = image_dataset(source.select(validated), config.image_size)
    bank = None
    if _has_classes(source, rows["train"], validated):
        places = first_of_random_order(np.arange(len(train)), MOST_NEIGHBOURS, config.seed, "neighbours")
        bank = Subset(train, places.tolist())
    num_classes = len(source.class_names or ())
    return SimclrSplits(datasets=datasets, source=run, bank=bank, num_classes=num_classes)


def _has_classes(source: ImageSource, train: np.ndarray, val: np.ndarray) -> bool:
    """Whether at least half of these images have labels, the training images of at least two classes."""
    if source.labels is None:
        return False
    known = [source.labels[rows] != UNLABELLED for rows in (train, val) if len(rows)]
    classes = set(source.labels[train].tolist()) - {UNLABELLED}
    return len(classes) > 1 and all(part.mean() >= 0.5 for part in known)
