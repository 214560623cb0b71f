"""The part of a source that a run takes of its training images, and the part that its model is judged on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from opsin.errors import DataError
from opsin.runtime import derive_seed
from opsin.sources.image_source import ImageSource


def first_of_random_order(rows: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """The first `count` of the rows in an order that the seed decides, sorted; all of them for None."""
    if count is None:
        return rows
    order = np.random.default_rng(derive_seed(seed, "max_train")).permutation(len(rows))
    return rows[np.sort(order[:count])]


def judged_part(
    source: ImageSource, split: str | None, rows: Mapping[str, np.ndarray] | None, *, changed: bool = False
) -> tuple[ImageSource, str]:
    """The images to judge a model on, and the name of their split.

    `rows` are those of each split of the run that made the model, None for a source that it was not trained on.
    Without `split`: of the own source the test images, or else those held out to validate on; of another source its
    test split, or else all of it. The split `all` is the whole source, training images included. Raises DataError when
    there are no such images, and when the own source has `changed` since and has no such split itself: divided anew,
    training images would come out as held out.
    """
    if split == "all":
        return source, split
    if rows is None:
        has_test = source.splits is not None and bool((source.splits == "test").any())
        if split is None and not has_test:
            return source, "all"
        return source.split(split or "test"), split or "test"
    if split is None and len(rows["test"]) == len(rows["val"]) == 0:
        raise DataError(f"nothing of {source.name!r} was held out from training; judge all of it with --split all")
    split = split or ("test" if len(rows["test"]) else "val")
    if len(rows.get(split, ())) == 0:
        usable = ", ".join(name for name, indices in rows.items() if len(indices))
        raise DataError(
            f"{source.name!r} has no split {split!r}; it has {usable}, all (--split all is everything, training images "
            "included)"
        )
    if changed and (source.splits is None or split not in source.splits):
        raise DataError(
            f"{source.name!r} has other images now than when the model was trained on it, so that those that were held "
            "out cannot be told from the others; judge all of them with --split all, or other images with --data"
        )
    return source.select(rows[split]), split
