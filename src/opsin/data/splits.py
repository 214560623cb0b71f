"""Which images of a source a run trains, validates and tests on, and which ones its model is evaluated on.

All systems split their sources here. The same settings choose the same rows in every version of opsin, so that models
and runs of earlier versions keep theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from opsin.config import Bounds, Config, json_digest
from opsin.errors import ConfigError, DataError, OpsinError
from opsin.images.preprocessing import ImageSize
from opsin.pretrained import RunRecord
from opsin.runtime import derive_seed
from opsin.sources.exclusion import Patterns
from opsin.sources.image_source import SPLITS, ImageSource
from opsin.sources.opening import exclude_images, is_same_source, open_source

OTHER_STYLE = "other-style"
"""The split of images that are trained on in another drawing style only."""
NO_ROWS = np.zeros(0, dtype=np.int64)

Rows = dict[str, np.ndarray]
"""Sorted row numbers of `train`, `val`, `test` and `OTHER_STYLE`; each but `train` may be empty."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """What the configs of all systems say of their data. A system overrides how its source is opened, and adds what
    else decides which rows are used for what."""

    data: str = "emoji"
    """A data source: emoji, cifar10, cifar10:DIR, coco:DIR, a directory, or FILE.parquet."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""
    image_size: ImageSize = 32
    """Side of the square images that the model sees, in pixels."""
    val_fraction: Annotated[float, Bounds(0, below=1)] = 0.1
    """Share of the training images held out to validate on, when the source has no validation split of its own."""
    max_train: Annotated[int | None, Bounds()] = None
    """Train on the first so many images of a fixed random order only."""

    @property
    def seed(self) -> int:
        """The random seed of the run."""
        raise NotImplementedError

    def open(self, *, to_train: bool = True) -> ImageSource:
        """The source as a run reads it: row numbers are those of this reading. `to_train` is False where a trained
        model is evaluated, which may take less."""
        return open_source(self.data, labels=False, exclude=self.exclude)

    def rows(self, source: ImageSource) -> Rows:
        """The rows of each split, of the source that `open` gives."""
        return rows_of_run(source, self)

    def split(self, *, to_train: bool = True) -> SplitSource:
        """`open` and `rows`. Raises DataError when the source cannot be used or has no images to train on."""
        source = self.open(to_train=to_train)
        return SplitSource(source, self.rows(source))


@dataclass(frozen=True)
class SplitSource:
    """A source with the rows of each split of a run."""

    source: ImageSource
    rows: Rows

    @cached_property
    def digest(self) -> str:
        """Of what the split depends on; see `split_digest`."""
        return split_digest(self.source)

    def has_changed(self, run: RunRecord[Any] | None) -> bool:
        """Whether the source has other images than when this run split it; False where that is not known."""
        return run is not None and run.source_digest not in (None, self.digest)

    @property
    def training(self) -> ImageSource:
        """The images that are trained on."""
        return self.source.select(self.rows["train"])

    @property
    def splits(self) -> dict[str, ImageSource]:
        """The images of each split that has any."""
        return {name: self.source.select(rows) for name, rows in self.rows.items() if len(rows)}


def rows_of_run(
    source: ImageSource,
    config: DataConfig,
    *,
    test_fraction: float = 0.0,
    train_on_all: bool = False,
    max_val: int | None = None,
    hold_out: Callable[[np.ndarray], np.ndarray] | None = None,
    stream: str = "max_train",
) -> Rows:
    """The rows of each split, as `split_rows` makes them, reduced to what the run uses.

    With `train_on_all` nothing is held out. `hold_out` picks those of the training rows that become `OTHER_STYLE`.
    Of the rest, `config.max_train` and `max_val` rows are chosen by the random numbers of `stream`.
    """
    rows = split_rows(source, config.val_fraction, test_fraction, config.seed)
    if train_on_all:
        rows = {"train": np.sort(np.concatenate(list(rows.values()))), "val": NO_ROWS, "test": NO_ROWS}
    rows[OTHER_STYLE] = NO_ROWS if hold_out is None else hold_out(rows["train"])
    rows["train"] = np.setdiff1d(rows["train"], rows[OTHER_STYLE])
    if len(rows["train"]) == 0:
        raise DataError(f"nothing of {source.name!r} is left to train on: all of it is held out")
    for name, count in (("train", config.max_train), ("val", max_val)):
        rows[name] = first_of_random_order(rows[name], count, config.seed, stream)
    return rows


def split_rows(source: ImageSource, val_fraction: float, test_fraction: float, seed: int) -> Rows:
    """Row numbers for `train`, `val` and `test`, sorted, any but `train` possibly empty.

    Splits that the source has are kept. What it lacks is taken from its training rows by these fractions, evenly from
    every class, never dividing a group, and in the same way for the same seed. Each class keeps at least one group to
    train on, and gives one to validation when it has two or more. Raises DataError when nothing is left to train on.
    """
    own = source.splits if source.splits is not None else np.full(len(source), "train")
    rows = {name: np.flatnonzero(own == name) for name in SPLITS}
    if len(rows["train"]) == 0:
        raise DataError(f"the source {source.name!r} has no images to train on")
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if len(rows[name]) == 0 and fraction > 0:
            taken = _draw(source, rows["train"], fraction, derive_seed(seed, "split", name))
            rows["train"] = np.setdiff1d(rows["train"], taken)
            rows[name] = taken
    return rows


def split_digest(source: ImageSource) -> str:
    """A digest of what `split_rows` looks at: ids, classes, splits and groups. The same settings split two sources of
    one digest alike."""
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


def first_of_random_order(rows: np.ndarray, count: int | None, seed: int, stream: str = "max_train") -> np.ndarray:
    """The first `count` of the rows in an order that the seed decides, sorted; all of them for None. Each `stream`, a
    name, has an order of its own."""
    if count is None:
        return rows
    order = np.random.default_rng(derive_seed(seed, stream)).permutation(len(rows))
    return rows[np.sort(order[:count])]


def rows_of_style(source: ImageSource, rows: np.ndarray, style: str) -> np.ndarray:
    """Those of the rows that are drawn in this style. Raises ConfigError unless the source has it and another one."""
    styles = source.metadata.get("style", np.zeros(0))
    known = sorted(set(styles.tolist()))
    if style not in known or len(known) == 1:
        raise ConfigError(
            f"held_out_style {style!r} cannot be held out of {source.name!r}, which has "
            + (f"the styles {', '.join(known)}" if known else "no drawing styles")
        )
    return rows[styles[rows] == style]


def rows_of_some_styles(source: ImageSource, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Of a share of the groups, at least one, all rows of one style, which is drawn anew for each group.

    Only groups that keep rows of another style are drawn from. Raises ConfigError for a source without styles.
    """
    styles = source.metadata.get("style")
    styles_of: dict[str, set[str]] = {}
    if styles is not None and source.groups is not None:
        for group, style in zip(source.groups[rows], styles[rows], strict=True):
            styles_of.setdefault(group, set()).add(style)
    names = sorted(group for group, own in styles_of.items() if len(own) > 1)
    if styles is None or source.groups is None or not names:
        raise no_styles(source.name)
    generator = np.random.default_rng(derive_seed(seed, "split", OTHER_STYLE))
    chosen = generator.permutation(names)[: max(1, round(fraction * len(names)))]
    held_out = {name: generator.choice(sorted(styles_of[name])) for name in chosen}
    is_held_out = [held_out.get(group) == style for group, style in zip(source.groups[rows], styles[rows], strict=True)]
    return rows[np.array(is_held_out)]


def no_styles(source: str) -> ConfigError:
    """The error of a source of which no style of some groups can be held out."""
    return ConfigError(f"style_fraction holds out a drawing style, and {source!r} has no two of one thing; try emoji")


@dataclass(frozen=True)
class EvaluationImages:
    """The images that a model is evaluated on: `source`, which is `split` of the data `ref`.

    `training` are the images that the model was trained on; None where these are gone, or cannot be told from others.
    `are_trained_on` says whether they are what is evaluated.
    """

    ref: str
    split: str
    source: ImageSource
    training: ImageSource | None
    are_trained_on: bool


def choose_evaluation_images(wanted: DataConfig, split: str | None, made_by: RunRecord[Any] | None) -> EvaluationImages:
    """The images of a split of a source; which ones these are by default, see `evaluation_split`.

    `wanted` names the source, no `data` meaning the one that the model was trained on, and what to exclude from it.
    `made_by` is the run that made the model, None where it is not known. Raises DataError when there is no such source
    or split.
    """
    own: DataConfig | None = None if made_by is None else made_by.config
    ref = wanted.data or ("" if own is None else own.data)
    if not ref:
        raise DataError("this model does not say what it was trained on; name a source with --data")
    if own is not None and is_same_source(ref, own.data):
        run = own.split(to_train=False)
        has_changed = run.has_changed(made_by)
        source, name = evaluation_split(run.source, split, run.rows, has_changed=has_changed)
        source = exclude_images(source, wanted.exclude, own.exclude)
        return EvaluationImages(ref, name, source, None if has_changed else run.training, name in ("train", "all"))
    source, name = evaluation_split(wanted.open(to_train=False), split, None)
    training = None
    if own is not None:
        with contextlib.suppress(OpsinError):
            run = own.split(to_train=False)
            training = None if run.has_changed(made_by) else run.training
    return EvaluationImages(ref, name, source, training, are_trained_on=False)


def evaluation_split(
    source: ImageSource, split: str | None, rows: Mapping[str, np.ndarray] | None, *, has_changed: bool = False
) -> tuple[ImageSource, str]:
    """The images to evaluate a model on, and the name of their split.

    `rows` are those of each split of the run that made the model, None for a source that it was not trained on.
    Without `split`: of the own source the test images, or else those held out to validate on; of another source its
    test split, or else all of it. The split `all` is the whole source, training images included. Raises DataError when
    there are no such images, and when the own source `has_changed` since and has no such split itself: split anew,
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
    if has_changed and (source.splits is None or split not in source.splits):
        raise DataError(
            f"{source.name!r} has other images now than when the model was trained on it, so that those that were held "
            "out cannot be told from the others; judge all of them with --split all, or other images with --data"
        )
    return source.select(rows[split]), split
