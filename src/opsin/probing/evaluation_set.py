"""Which images of a labelled source an encoder is evaluated on, which ones give their labels for it, and the features
of them, from the cache of `opsin.encoders.features`.

Features are computed about a thousand images at a time: an evaluation that was stopped continues where it was, and
another one finds the whole blocks that it has in common with this one. With the same seed the labelled images of a
fraction are the first ones of a larger fraction; all of them, however, are in the order of seed 0, whatever the seed
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsin.counts import none_of
from opsin.data.splits import split_digest, split_rows
from opsin.encoders.base import ImageEncoder, NetworkEncoder
from opsin.encoders.features import source_features, source_vectors
from opsin.errors import ConfigError, DataError
from opsin.images.opening import Skipped
from opsin.names import find_equal, printable
from opsin.pretrained import PretrainedModel, RunRecord, run_of
from opsin.probing.linear_probe import labelled_rows
from opsin.progress import Progress
from opsin.runtime import derive_seed
from opsin.sources.image_source import UNLABELLED, ImageSource, NothingReadable
from opsin.sources.opening import exclude_images, is_same_source, open_labelled
from opsin.systems import system_of_kind

HELD_OUT = 0.2
"""Fraction of a source without splits that is held out to evaluate on, and fraction of the labelled images that a
linear probe chooses its regularization on."""
FEWEST_LABELLED = 10
"""Images of a class that a tenth of the labels must leave, or all are used."""


@dataclass(frozen=True)
class EvaluationSet:
    """A labelled source in two parts: `pool`, of whose labels `labelled` has the share that is used, and `test`. `seen`
    says whether the encoder may have been trained on the images of `test`. Where the pool is another source,
    `train_data` names it; images of `test` whose class it does not have are listed in `skipped` of `test`."""

    data: str
    split: str
    pool: ImageSource
    labelled: ImageSource
    test: ImageSource
    seen: bool = False
    train_data: str | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        assert self.test.class_names is not None
        return self.test.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def open_evaluation_set(
    encoder: ImageEncoder,
    data: str | None,
    split: str | None,
    fraction: float | None,
    seed: int,
    exclude: Sequence[str] = (),
    train_data: str | None = None,
) -> EvaluationSet:
    """The two parts of a source, by default of the one that the encoder was trained on.

    Evaluated on is `split`, `test` or `val`; by default the source's test split where it has one, else its validation
    split, else images held out evenly from every class: those of the encoder's run when it is its own source and held
    some out, else a fifth. Labels come from `fraction` of the remaining images, by default as `enough_labels` says,
    evenly from every class, as the seed decides; with `val` the test split is not among them. Of its own source an
    encoder has perhaps seen what it is evaluated on, unless it is of a kind whose runs certainly held that out, and
    unless the source has changed since, of which the digest tells. `exclude` are patterns of images to leave out,
    besides those that the run has left out of its source.

    Labels come from another source where `train_data` names one, from all of it but its test split; evaluated on are
    then all images of the first one where nothing of it is held out, or where `split` is `all`. Classes are matched by
    name. Raises DataError when a source has no labels or there is nothing to evaluate on, ConfigError for a share or
    split that cannot be.
    """
    if split not in ((None, "test", "val") if train_data is None else (None, "test", "val", "all")):
        raise ConfigError(
            f"an encoder is evaluated on the split test or val, not on {split!r}: labels are taken from the rest"
        )
    run = run_of(encoder)
    own, own_exclude = ("", ()) if run is None else (run.config.data, run.config.exclude)
    ref = data or own
    source = _open(encoder.name, data, own, own_exclude, exclude, min_classes=1 if train_data else 2)
    digest = None if run is None else run.source_digest
    is_unchanged = digest is not None and digest == split_digest(source)
    is_own = is_unchanged or is_same_source(ref, own)
    rows, held_out_by_run = _rows(source, run if is_own else None)
    if train_data is not None:
        rows["all"] = np.arange(len(source))
    wanted = split or ("test" if len(rows["test"]) else "val")
    if train_data is not None and not held_out_by_run:
        wanted = "all"
    if len(rows[wanted]) == 0 or (split is not None and split != wanted):
        raise DataError(_nothing_to_evaluate_on(ref, split))
    held_out = (
        wanted != "all"
        and (is_unchanged or digest is None)
        and held_out_by_run
        and isinstance(encoder, PretrainedModel)
        and system_of_kind(encoder.kind).holds_out
    )
    seen = is_own and not held_out
    rest = rows["train"] if wanted == "val" else np.sort(np.concatenate([rows["train"], rows["val"]]))
    pool, test = source.select(rest), source.select(rows[wanted])
    if is_own:
        pool, test = (exclude_images(part, exclude, own_exclude) for part in (pool, test))
    if train_data is not None:
        pool = _pool_of(train_data, ref, exclude)
        test = _of_classes(test, pool)
    return EvaluationSet(ref, wanted, pool, some_labelled(pool, fraction, seed), test, seen, train_data)


def _pool_of(train_data: str, ref: str, exclude: Sequence[str]) -> ImageSource:
    """All images of a labelled source but those of its test split."""
    if is_same_source(train_data, ref):
        raise ConfigError(
            f"labels would come from the very images of the evaluation, those of {ref!r}; without --train-data they "
            "come from the rest of it"
        )
    source = open_labelled(train_data, exclude=exclude)
    pool = source if source.splits is None else source.select(source.splits != "test")
    if len(pool) == 0:
        raise DataError(f"the source {train_data!r} has test images only, and none whose labels can be used")
    return pool


def _of_classes(test: ImageSource, pool: ImageSource) -> ImageSource:
    """The test images under the classes of the pool, without those of other classes. DataError when none is left."""
    assert test.labels is not None and test.class_names is not None and pool.class_names is not None
    places = [find_equal(name, pool.class_names) for name in test.class_names]
    renumber = np.array([UNLABELLED if place is None else place for place in places], dtype=np.int64)
    labels = renumber[test.labels]
    unknown = [name for name, place in zip(test.class_names, places, strict=True) if place is None]
    if not (labels != UNLABELLED).any():
        raise DataError(
            f"{test.name!r} and {pool.name!r} have no class in common: {', '.join(unknown[:5])}; and "
            f"{', '.join(pool.class_names[:5])}"
        )
    skipped = list(test.skipped)
    if (labels == UNLABELLED).any():
        reason = (
            f"{int((labels == UNLABELLED).sum())} images of classes that {pool.name!r} has not: {', '.join(unknown)}"
        )
        skipped.append(Skipped(printable(test.name), reason))
    known = test.relabel(labels, pool.class_names).select(labels != UNLABELLED)
    return replace(known, skipped=skipped)


def enough_labels(labels: np.ndarray) -> float:
    """The fraction of the labels int64 (N,) that a probe uses by default: a tenth, as in SimCLR's evaluation with few
    labels, where that leaves half of the classes `FEWEST_LABELLED` images or more, else all."""
    median = np.median(np.unique(labels, return_counts=True)[1])
    return 0.1 if 0.1 * median >= FEWEST_LABELLED else 1.0


def some_labelled(pool: ImageSource, fraction: float | None, seed: int) -> ImageSource:
    """`fraction` of the images of a labelled source, or as many as `enough_labels` says, evenly from every class; see
    `labelled_rows`."""
    assert pool.labels is not None
    if fraction is None:
        fraction = enough_labels(pool.labels)
    # All labels are the same for every seed, and so is then their order, by which the cache knows blocks of them.
    return pool.select(labelled_rows(pool.labels, fraction, derive_seed(seed if fraction < 1 else 0, "labelled")))


def rows_to_choose_on(labelled: ImageSource, seed: int) -> np.ndarray:
    """Rows of the labelled images that a linear probe chooses its regularisation on, evenly from every class. Empty
    where no class has two images to part."""
    return split_rows(replace(labelled, splits=None), HELD_OUT, 0.0, seed)["val"]


def refuse_too_few(parts: EvaluationSet, seed: int) -> None:
    """Raise DataError where a linear probe would have nothing to choose its regularisation on."""
    if len(rows_to_choose_on(parts.labelled, seed)):
        return
    more = (
        "take more of them by --labels-fraction"
        if len(parts.labelled) < len(parts.pool)
        else "evaluate by --protocol knn instead"
    )
    raise DataError(
        f"{len(parts.labelled)} of {len(parts.pool)} labelled images are too few to choose the regularisation of a "
        f"linear probe on some of them, which takes two of some class; {more}"
    )


def _open(
    name: str, data: str | None, own: str, own_exclude: Sequence[str], exclude: Sequence[str], min_classes: int
) -> ImageSource:
    if data and not is_same_source(data, own):
        return open_labelled(data, min_classes=min_classes, exclude=exclude)
    # The own source is opened as the run read it: its rows are those of that reading.
    if not own:
        raise DataError(f"{name} does not say what it was trained on; name a labelled source with --data")
    try:
        return open_labelled(own, min_classes=min_classes, exclude=own_exclude)
    except DataError as error:
        raise DataError(
            f"{name} was trained on {own!r}, on which it cannot be evaluated now; name a labelled source with --data. "
            f"The reason: {error}"
        ) from error


def _nothing_to_evaluate_on(ref: str, split: str | None) -> str:
    if split is not None:
        return f"{ref!r} has no split {split!r} to evaluate on"
    return (
        f"no class of {ref!r} has two images, one to evaluate on and one whose label is used; name a source with more "
        "by --data"
    )


def _rows(source: ImageSource, run: RunRecord[Any] | None) -> tuple[dict[str, np.ndarray], bool]:
    """As the run divided the source, also when it then trained on a part only; and whether it or the source held
    anything out."""
    val_fraction, test_fraction, seed = 0.0, 0.0, 0
    if run is not None:
        val_fraction, seed = run.config.val_fraction, run.config.seed
        test_fraction = getattr(run.config, "test_fraction", 0.0)  # not every system has one
    rows = split_rows(source, val_fraction, test_fraction, seed)
    if len(rows["test"]) + len(rows["val"]) > 0:
        return rows, True
    return split_rows(source, HELD_OUT, 0.0, seed), False


IMAGES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Encoded:
    """The images of a source that can be read, their features float32 (N, D) and their labels int64 (N,)."""

    source: ImageSource
    features: Tensor
    labels: Tensor


def encode(
    source: ImageSource, encoder: ImageEncoder, *, unit: bool = True, progress: Progress | None = None
) -> Encoded:
    """Features of a labelled source, from the cache; of length one, or as they are, which takes a NetworkEncoder.

    Raises DataError when no image can be read, or when the cache cannot be written.
    """
    features, kept, skipped = [], [], list(source.skipped)
    for start in range(0, len(source), IMAGES_AT_A_TIME):
        rows = np.arange(start, min(start + IMAGES_AT_A_TIME, len(source)))
        piece = replace(source.select(rows), skipped=[])
        try:
            usable, vectors = _vectors(piece, encoder, progress, unit)
        except NothingReadable as error:
            skipped += error.skipped
            continue
        features.append(vectors)
        kept.append(rows[np.isin(piece.ids, usable.ids)])
        skipped += usable.skipped
    if not kept:
        raise DataError(
            f"{none_of(len(source), 'image')} of {source.name!r} can be read; the first: {skipped[0].reason}"
        )
    whole = replace(source.select(np.concatenate(kept)), skipped=skipped)
    assert whole.labels is not None
    return Encoded(whole, torch.cat(features), torch.from_numpy(whole.labels))


def _vectors(
    source: ImageSource, encoder: ImageEncoder, progress: Progress | None, unit: bool
) -> tuple[ImageSource, Tensor]:
    if unit:
        return source_vectors(source, encoder, progress=progress)
    assert isinstance(encoder, NetworkEncoder)
    usable, vectors = source_features(source, encoder, progress=progress)
    return usable, torch.from_numpy(np.array(vectors, dtype=np.float32))
