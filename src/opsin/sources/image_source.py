"""Images with what is known about them: what every data source gives, whatever its layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from opsin.counts import none_of, number_of
from opsin.errors import DataError
from opsin.images.decoding import map_rows
from opsin.images.opening import ImageFacts, ImageLike, Skipped, examine_image, open_image
from opsin.names import one_spelling, printable
from opsin.progress import Progress, tracked

SPLITS = ("train", "val", "test")
UNLABELLED = -1
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""What folders and files of each split are called, as Hugging Face and COCO call them."""

ResultT = TypeVar("ResultT")


class Files:
    """The `loader` of a source whose images are files of their own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __call__(self, row: int) -> Path:
        return self.paths[row]


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images with what is known about them. All per-row fields have the same length and order.

    Nothing is decoded until `load` is called.
    """

    name: str
    ids: Sequence[str]
    """Unique and stable: a relative path, `train/000123`, `1F600/openmoji`."""
    loader: Callable[[int], ImageLike]
    """What `open_image` takes, such as a path or the bytes of a file, for a row number of the whole, unselected source.
    It can be pickled, because worker processes are not forked everywhere."""
    rows: np.ndarray
    """Row numbers that `loader` knows, int64 (N,)."""
    labels: np.ndarray | None = None
    """Class of each image, int64 (N,), an index into `class_names`; `UNLABELLED` where it has none."""
    label_sets: Sequence[tuple[int, ...]] | None = None
    """Classes of each image in place of `labels`, where some image has several; indices into `class_names`."""
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

    def load(self, index: int, size: int | None = None) -> Image.Image:
        """The image of row `index` as RGB; `size` is that of `open_image`. Raises DataError, naming the image, when it
        cannot be read."""
        content = self.loader(int(self.rows[index]))
        return open_image(content, self._name_of(index, content), size=size)

    def file(self, index: int) -> Path | None:
        """The file of the image of row `index`; None where it is no file of its own."""
        return self.loader(int(self.rows[index])) if isinstance(self.loader, Files) else None

    def examine(self, index: int) -> ImageFacts:
        """What the image of row `index` is; raises as `load` does."""
        content = self.loader(int(self.rows[index]))
        return examine_image(content, self._name_of(index, content))

    def _name_of(self, index: int, content: ImageLike) -> str | None:
        """What errors call an image: files have names of their own."""
        return None if isinstance(content, str | Path) else f"{printable(self.ids[index])} of {self.name}"

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
            label_sets=taken(self.label_sets),
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

    def labelled(self) -> ImageSource:
        """The images that have a label; how many have none is listed in `skipped`."""
        if self.labels is None or (self.labels != UNLABELLED).all():
            return self
        missing = np.flatnonzero(self.labels == UNLABELLED)
        reason = f"{number_of(len(missing), 'image')} without a label, for example {printable(self.ids[missing[0]])}"
        rest = self.select(self.labels != UNLABELLED)
        return replace(rest, skipped=[*self.skipped, Skipped(printable(self.name), reason)])

    def relabel(self, labels: np.ndarray, class_names: tuple[str, ...]) -> ImageSource:
        """The same images under other classes."""
        return replace(self, labels=labels, label_sets=None, class_names=class_names)


def split_of_file(name: str) -> str | None:
    """The split that the first word of a file's name says: `train` of `train-00000-of-00002`, `val` of `val2017`."""
    return SPLIT_NAMES.get(re.split("[^a-z]", name.lower())[0])


def without_split(files: Mapping[Path, str | None]) -> list[Skipped]:
    """The files whose names say no split, where those of others do: images to test on must not be trained on."""
    if not any(files.values()):
        return []
    reason = f"its name says no split ({', '.join(SPLITS)}), and those of other files do; left out"
    return [Skipped(printable(path.name), reason) for path, split in files.items() if split is None]


class NothingReadable(DataError):
    """None of some images can be read; `skipped` says why."""

    def __init__(self, message: str, skipped: Sequence[Skipped]) -> None:
        super().__init__(message)
        self.skipped = list(skipped)


def map_readable(
    source: ImageSource,
    function: Callable[[int], ResultT],
    *,
    progress: Progress | None = None,
    title: str | None = None,
) -> tuple[ImageSource, list[ResultT]]:
    """`function` of each row, computed by several threads, for those rows that it raises no DataError for.

    The source comes back without the other rows, which are listed in its `skipped`, so that result i belongs to its row
    i. `title` is that of the progress, by default the name of the source. Raises NothingReadable when no row is left,
    and Cancelled.
    """

    def attempt(row: int) -> ResultT | DataError:
        try:
            return function(row)
        except DataError as error:
            return error

    attempts = map_rows(attempt, len(source))
    outcomes = list(tracked(attempts, progress, title or source.name, len(source)))
    is_good = np.array([not isinstance(outcome, DataError) for outcome in outcomes], dtype=bool)
    problems = zip(source.ids, outcomes, strict=True)
    skipped = [Skipped(name, str(outcome)) for name, outcome in problems if isinstance(outcome, DataError)]
    if not is_good.any():
        reason = f"; the first: {skipped[0].reason}" if skipped else ""
        raise NothingReadable(f"{none_of(len(source), 'image')} of {source.name!r} can be read{reason}", skipped)
    usable = replace(source.select(is_good), skipped=[*source.skipped, *skipped])
    return usable, [outcome for outcome in outcomes if not isinstance(outcome, DataError)]


def number_labels(labels: Sequence[Sequence[str]]) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """The classes of each image, ascending, and the names of all classes, sorted, numbers by their value.

    Labels that people read as equal (`name_key`) are one class, by the spelling that occurs most often.
    """
    spelling = one_spelling(printable(label) for of_image in labels for label in of_image)
    names = sorted(set(spelling.values()))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    numbers = {name: number for number, name in enumerate(names)}
    sets = [tuple(sorted({numbers[spelling[printable(label)]] for label in of_image})) for of_image in labels]
    return sets, tuple(names)


def label_fields(sets: Sequence[tuple[int, ...]], class_names: Sequence[str]) -> dict[str, Any]:
    """The fields of an ImageSource: `labels`, or `label_sets` where an image has several; none without any label."""
    if not any(sets):
        return {}
    if any(len(classes) > 1 for classes in sets):
        return {"label_sets": list(sets), "class_names": tuple(class_names)}
    labels = np.array([classes[0] if classes else UNLABELLED for classes in sets], dtype=np.int64)
    return {"labels": labels, "class_names": tuple(class_names)}
