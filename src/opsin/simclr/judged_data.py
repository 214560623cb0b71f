"""Which images of a labelled source give their labels when an encoder is judged, and which ones it is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opsin.data.image_source import ImageSource
from opsin.data.sources import exclude_images, is_same_source, open_labelled
from opsin.data.splits import division_digest, split_rows
from opsin.encoders.base import ImageEncoder
from opsin.errors import ConfigError, DataError
from opsin.runtime import derive_seed
from opsin.simclr.linear_probe import labelled_rows
from opsin.training.record import SOURCE_DIGEST

HELD_OUT = 0.2
"""Share of a source without splits that is held out to judge on, and share of the labelled images that a linear probe
chooses its regularisation on."""
DIVIDED_ALIKE = ("simclr", "vit-classifier")
"""Kinds of models whose runs divide all images of their source by `split_rows`, as it is done here. Others leave some
out before, or train on all."""


@dataclass(frozen=True)
class JudgedData:
    """A labelled source in two parts: `pool`, of whose labels `labelled` has the share that is used, and `test`. `seen`
    says whether the encoder may have been trained on the images of `test`."""

    data: str
    split: str
    pool: ImageSource
    labelled: ImageSource
    test: ImageSource
    seen: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        assert self.test.class_names is not None
        return self.test.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def open_judged(
    encoder: ImageEncoder,
    data: str | None,
    split: str | None,
    fraction: float,
    seed: int,
    exclude: Sequence[str] = (),
) -> JudgedData:
    """The two parts of a source, by default of the one that the encoder was trained on.

    Judged on is `split`, `test` or `val`; by default the source's test split where it has one, else its validation
    split, else images held out evenly from every class: those of the encoder's run when it is its own source and held
    some out, else a fifth. Labels come from `fraction` of the remaining images, evenly from every class, as the seed
    decides; with `val` the test split is not among them. Of its own source an encoder has perhaps seen what it is
    judged on, unless it is of a kind whose runs certainly held that out, and unless the source has changed since, of
    which the digest tells. `exclude` are patterns of images to leave out, besides those that the run has left out of
    its source. Raises DataError when the source has no labels or nothing to judge on, ConfigError for a share or split
    that cannot be.
    """
    if split not in (None, "test", "val"):
        raise ConfigError(
            f"an encoder is judged on the split test or val, not on {split!r}: labels are taken from the rest"
        )
    training = getattr(encoder, "training", None)
    if not isinstance(training, Mapping):  # a network of torch says by this name whether it is in training
        training = {}
    own = str(training.get("data", ""))
    ref = data or own
    own_exclude = tuple(training.get("exclude", ()))
    source = _open(encoder.name, data, own, own_exclude, exclude)
    digest = training.get(SOURCE_DIGEST)
    is_unchanged = digest is not None and digest == division_digest(source)
    is_own = is_unchanged or is_same_source(ref, own)
    rows, held_out_by_run = _rows(source, training if is_own else {})
    wanted = split or ("test" if len(rows["test"]) else "val")
    if len(rows[wanted]) == 0:
        raise DataError(_nothing_to_judge_on(ref, split))
    held_out = (is_unchanged or digest is None) and held_out_by_run and getattr(encoder, "kind", None) in DIVIDED_ALIKE
    seen = is_own and not held_out
    rest = rows["train"] if wanted == "val" else np.sort(np.concatenate([rows["train"], rows["val"]]))
    pool, test = source.select(rest), source.select(rows[wanted])
    if is_own:
        pool, test = (exclude_images(part, exclude, own_exclude) for part in (pool, test))
    return JudgedData(ref, wanted, pool, some_labelled(pool, fraction, seed), test, seen)


def some_labelled(pool: ImageSource, fraction: float, seed: int) -> ImageSource:
    """`fraction` of the images of a labelled source, evenly from every class; see `labelled_rows`."""
    assert pool.labels is not None
    # All labels are the same for every seed, and so is then their order, by which the cache knows blocks of them.
    return pool.select(labelled_rows(pool.labels, fraction, derive_seed(seed if fraction < 1 else 0, "labelled")))


def chosen_on(labelled: ImageSource, seed: int) -> np.ndarray:
    """Rows of the labelled images that a linear probe chooses its regularisation on, evenly from every class. Empty
    where no class has two images to part."""
    return split_rows(replace(labelled, splits=None), HELD_OUT, 0.0, seed)["val"]


def refuse_too_few(parts: JudgedData, fraction: float, seed: int) -> None:
    """Raise DataError where a linear probe would have nothing to choose its regularisation on."""
    if len(chosen_on(parts.labelled, seed)):
        return
    more = "take more of them by --labels-fraction" if fraction < 1 else "judge by --protocol knn instead"
    raise DataError(
        f"{len(parts.labelled)} of {len(parts.pool)} labelled images are too few to choose the regularisation of a "
        f"linear probe on some of them, which takes two of some class; {more}"
    )


def _open(name: str, data: str | None, own: str, own_exclude: Sequence[str], exclude: Sequence[str]) -> ImageSource:
    if data and not is_same_source(data, own):
        return open_labelled(data, exclude=exclude)
    # The own source is opened as the run read it: its rows are those of that reading.
    if not own:
        raise DataError(f"{name} does not say what it was trained on; name a labelled source with --data")
    try:
        return open_labelled(own, exclude=own_exclude)
    except DataError as error:
        raise DataError(
            f"{name} was trained on {own!r}, on which it cannot be judged now; name a labelled source with --data. "
            f"The reason: {error}"
        ) from error


def _nothing_to_judge_on(ref: str, split: str | None) -> str:
    if split is not None:
        return f"{ref!r} has no split {split!r} to judge on"
    return (
        f"no class of {ref!r} has two images, one to judge on and one whose label is used; name a source with more by "
        "--data"
    )


def _rows(source: ImageSource, training: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """As the run divided the source, also when it then trained on a part only; and whether it or the source held
    anything out."""
    val_fraction, test_fraction = (float(training.get(f"{name}_fraction", 0.0)) for name in ("val", "test"))
    seed = int(training.get("training", {}).get("seed", 0))
    rows = split_rows(source, val_fraction, test_fraction, seed)
    if len(rows["test"]) + len(rows["val"]) > 0:
        return rows, True
    return split_rows(source, HELD_OUT, 0.0, seed), False
