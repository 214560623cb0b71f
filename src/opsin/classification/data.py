"""Which images of a labelled source are for what in a classification run."""

from __future__ import annotations

import numpy as np

from opsin.data.parts import first_of_random_order
from opsin.data.splits import split_rows
from opsin.sources.image_source import ImageSource


def rows_of_run(source: ImageSource, *, val_fraction: float, max_train: int | None, seed: int) -> dict[str, np.ndarray]:
    """Row numbers that a run of these settings uses for `train`, `val` and `test`; see `split_rows`.

    `max_train` keeps the first so many training rows of a random order that `seed` fixes.
    """
    rows = split_rows(source, val_fraction, 0.0, seed)
    rows["train"] = first_of_random_order(rows["train"], max_train, seed)
    return rows
