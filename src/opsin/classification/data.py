"""Labelled data of a classification run: which sources can be used, and which of their images are for what."""

from __future__ import annotations

import numpy as np

from opsin.data.sources import ImageSource, open_source
from opsin.data.splits import split_rows
from opsin.errors import DataError
from opsin.runtime import derive_seed


def open_labelled(ref: str) -> ImageSource:
    """Open a source for classification; DataError unless it has labels of at least two classes."""
    source = open_source(ref)
    if source.labels is None or source.class_names is None:
        raise DataError(f"the source {ref!r} has no labels; classification needs class folders, or a column `label`")
    present = np.unique(source.labels)
    if len(present) < 2:
        name = source.class_names[int(present[0])] if len(present) else "none"
        raise DataError(f"the source {ref!r} has images of one class only ({name}); telling apart takes at least two")
    return source


def rows_of_run(source: ImageSource, *, val_fraction: float, max_train: int | None, seed: int) -> dict[str, np.ndarray]:
    """Row numbers that a run of these settings uses for `train`, `val` and `test`; see `split_rows`.

    `max_train` keeps the first so many training rows of a random order that `seed` fixes.
    """
    rows = split_rows(source, val_fraction, 0.0, seed)
    if max_train is not None:
        order = np.random.default_rng(derive_seed(seed, "max_train")).permutation(rows["train"])
        rows["train"] = np.sort(order[:max_train])
    return rows
