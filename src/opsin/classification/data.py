"""Which images of a labelled source are for what in a classification run."""

from __future__ import annotations

import numpy as np

from opsin.data.image_source import ImageSource
from opsin.data.splits import split_rows
from opsin.runtime import derive_seed


def rows_of_run(source: ImageSource, *, val_fraction: float, max_train: int | None, seed: int) -> dict[str, np.ndarray]:
    """Row numbers that a run of these settings uses for `train`, `val` and `test`; see `split_rows`.

    `max_train` keeps the first so many training rows of a random order that `seed` fixes.
    """
    rows = split_rows(source, val_fraction, 0.0, seed)
    if max_train is not None:
        order = np.random.default_rng(derive_seed(seed, "max_train")).permutation(rows["train"])
        rows["train"] = np.sort(order[:max_train])
    return rows
