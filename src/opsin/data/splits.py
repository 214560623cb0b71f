"""Dividing a source into training, validation and test images."""

from __future__ import annotations

import numpy as np

from opsin.config import json_digest
from opsin.errors import DataError
from opsin.runtime import derive_seed
from opsin.sources.image_source import ImageSource


def split_rows(source: ImageSource, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Row numbers for `train`, `val` and `test`, sorted, any but `train` possibly empty.

    Splits that the source has are kept. What it lacks is taken from its training rows by these fractions, evenly from
    every class, never dividing a group, and in the same way for the same seed. Each class keeps at least one group to
    train on, and gives one to validation when it has two or more. Raises DataError when nothing is left to train on.
    """
    own = source.splits if source.splits is not None else np.full(len(source), "train")
    rows = {name: np.flatnonzero(own == name) for name in ("train", "val", "test")}
    if len(rows["train"]) == 0:
        raise DataError(f"the source {source.name!r} has no images to train on")
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if len(rows[name]) == 0 and fraction > 0:
            taken = _draw(source, rows["train"], fraction, derive_seed(seed, "split", name))
            rows["train"] = np.setdiff1d(rows["train"], taken)
            rows[name] = taken
    return rows


def division_digest(source: ImageSource) -> str:
    """A digest of what `split_rows` looks at: ids, classes, splits and groups. The same settings divide
    two sources of one digest alike."""
    columns = (source.labels, source.splits, source.groups)
    return json_digest([list(source.ids), *(None if column is None else column.tolist() for column in columns)])


def _draw(source: ImageSource, candidates: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """About `fraction` of the candidate rows, by whole groups, from every class alike."""
    generator = np.random.default_rng(seed)
    labels = source.labels[candidates] if source.labels is not None else np.zeros(len(candidates), dtype=np.int64)
    groups = source.groups[candidates] if source.groups is not None else candidates
    taken = []
    for label in np.unique(labels):
        names = np.unique(groups[labels == label])
        count = min(max(round(fraction * len(names)), 1), len(names) - 1)
        taken.append(generator.permutation(names)[:count])
    return candidates[np.isin(groups, np.concatenate(taken))]
