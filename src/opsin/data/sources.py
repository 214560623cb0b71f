"""Data sources: one string names the data in every command, and one class holds it.

`emoji`, `cifar10`, `cifar10:DIR`, `coco:DIR`, a directory (class folders or flat, with or without captions),
`FILE.parquet`, or a directory of parquet files. `course-coco:DIR` holds features, no images; see
`opsin.data.course_coco`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from opsin.config import nearest_name
from opsin.data.caption_tables import TEXT_SUFFIXES
from opsin.data.images import Skipped
from opsin.data.threads import map_rows
from opsin.errors import DataError

__all__ = ["ImageSource", "Skipped", "is_same_source", "map_readable", "open_labelled", "open_source"]

SPLITS = ("train", "val", "test")
KINDS = "give a directory, a .parquet file, emoji, cifar10:DIR, coco:DIR, or, for captioners, course-coco:DIR"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images with what is known about them. All per-row fields have the same length and order.

    Nothing is decoded until `load` is called.
    """

    name: str
    ids: Sequence[str]
    """Unique and stable: a relative path, `train/000123`, `1F600/openmoji`."""
    loader: Callable[[int], Image.Image]
    """Decodes the image of a row number of the whole, unselected source. It can be pickled, because worker processes
    are not forked everywhere."""
    rows: np.ndarray
    """Row numbers that `loader` knows, int64 (N,)."""
    labels: np.ndarray | None = None
    """Class of each image, int64 (N,), an index into `class_names`."""
    class_names: tuple[str, ...] | None = None
    captions: Sequence[tuple[str, ...]] | None = None
    """Texts of each image, any number of them."""
    seen_instead_of_captions: Callable[[], str] | None = None
    """Where there are no captions: a remark on what may have been meant as such."""
    splits: np.ndarray | None = None
    """`train`, `val` or `test` for each image, where the source itself says so."""
    groups: np.ndarray | None = None
    """Images of the same group (drawings of one emoji) must not be on both sides of a split."""
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further columns, each (N,)."""
    skipped: list[Skipped] = field(default_factory=list)
    """What has been left out already, and why."""

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        """The image of row `index` as RGB. Raises DataError, naming the image, when it cannot be read."""
        return self.loader(int(self.rows[index]))

    def select(self, indices: np.ndarray) -> ImageSource:
        """The rows at `indices` in that order, or those where a boolean mask (N,) is true."""
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)

        def taken(values: Any) -> Any:
            if values is None or isinstance(values, np.ndarray):
                return None if values is None else values[indices]
            return [values[index] for index in indices]

        return replace(
            self,
            ids=taken(self.ids),
            rows=taken(self.rows),
            labels=taken(self.labels),
            captions=taken(self.captions),
            splits=taken(self.splits),
            groups=taken(self.groups),
            metadata={name: taken(column) for name, column in self.metadata.items()},
        )

    def split(self, name: str) -> ImageSource:
        """The rows of one of the source's own splits; DataError when it has none of that name."""
        present = [] if self.splits is None else [split for split in SPLITS if (self.splits == split).any()]
        if self.splits is None or name not in present:
            raise DataError(
                f"the source {self.name!r} has no split {name!r}; it has {', '.join(present) or 'no splits'}"
            )
        return self.select(np.flatnonzero(self.splits == name))

    def relabel(self, labels: np.ndarray, class_names: tuple[str, ...]) -> ImageSource:
        """The same images under other classes."""
        return replace(self, labels=labels, class_names=class_names)


class NothingReadable(DataError):
    """None of some images can be read; `skipped` says why."""

    def __init__(self, message: str, skipped: Sequence[Skipped]) -> None:
        super().__init__(message)
        self.skipped = list(skipped)


def map_readable(
    source: ImageSource, function: Callable[[int], ResultT], *, quiet: bool = True
) -> tuple[ImageSource, list[ResultT]]:
    """`function` of each row, computed by several threads, for those rows that it raises no DataError for.

    The source comes back without the other rows, which are listed in its `skipped`, so that result i belongs to its row
    i. Progress is shown on stderr unless `quiet`. Raises NothingReadable when no row is left.
    """

    def attempt(row: int) -> ResultT | DataError:
        try:
            return function(row)
        except DataError as error:
            return error

    attempts = map_rows(attempt, len(source))
    outcomes = list(tqdm(attempts, desc=source.name, total=len(source), unit=" images", disable=quiet))
    is_good = np.array([not isinstance(outcome, DataError) for outcome in outcomes], dtype=bool)
    problems = zip(source.ids, outcomes, strict=True)
    skipped = [Skipped(name, str(outcome)) for name, outcome in problems if isinstance(outcome, DataError)]
    if not is_good.any():
        reason = f"; the first: {skipped[0].reason}" if skipped else ""
        raise NothingReadable(f"none of the {len(source)} images of {source.name!r} can be read{reason}", skipped)
    usable = replace(source.select(is_good), skipped=[*source.skipped, *skipped])
    return usable, [outcome for outcome in outcomes if not isinstance(outcome, DataError)]


def is_same_source(ref: str, other: str) -> bool:
    """Also when a directory or file is written in two ways: its training images must not pass for unseen ones."""
    paths = (Path(ref), Path(other))
    return ref == other or (bool(other) and all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def open_source(ref: str | Path) -> ImageSource:
    """Open the source that a string names. Raises DataError, saying which layouts were tried, when there is none."""
    text = str(ref)
    if not text:
        raise DataError(f"the name of the data source is empty; {KINDS}")
    kind, _, argument = text.partition(":")
    if text == "emoji":
        from opsin.data.emoji import emoji_source

        return emoji_source()
    if kind == "cifar10":
        from opsin.data.cifar10 import cifar10_source

        return cifar10_source(Path(argument).expanduser() if argument else None)
    if kind == "coco" and argument:
        from opsin.data.coco import coco_source

        return coco_source(Path(argument).expanduser(), name=text)
    if kind == "course-coco":
        raise DataError(
            f"{text!r} holds image features instead of images, so only a captioner can be trained and judged on it"
        )
    path = Path(text).expanduser()
    if path.is_dir():
        from opsin.data.folders import folder_source
        from opsin.data.parquet import find_parquet, parquet_source

        if parquet_files := find_parquet(path):
            return parquet_source(parquet_files, name=text)
        return folder_source(path, name=text)
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            from opsin.data.parquet import parquet_source

            return parquet_source({None: [path]}, name=text)
        if path.suffix.lower() in TEXT_SUFFIXES and path.suffix.lower() != ".json":  # that may be COCO's, elsewhere
            raise DataError(f"{path} is no source by itself; give its directory, {path.parent}")
        raise DataError(f"{path} is a file, but not a .parquet file; {KINDS}")
    raise DataError(_no_such_source(text, path))


def open_labelled(ref: str) -> ImageSource:
    """`open_source` for what takes labels; DataError unless it has labels of at least two classes, besides."""
    source = open_source(ref)
    if source.labels is None or source.class_names is None:
        raise DataError(
            f"the source {ref!r} has no labels; name one with class folders, or with a column `label`, by --data"
        )
    present = np.unique(source.labels)
    if len(present) < 2:
        name = source.class_names[int(present[0])] if len(present) else "none"
        raise DataError(f"the source {ref!r} has images of one class only ({name}); telling apart takes at least two")
    return source


def _no_such_source(text: str, path: Path) -> str:
    known = ["emoji", "cifar10"]
    siblings = [str(path.parent / entry.name) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest_name(text, known + siblings)
    hint = f"did you mean {near!r}?" if near else KINDS
    return f"there is no data source {text!r}: no directory, no file and no name of a source; {hint}"
