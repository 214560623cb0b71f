"""Sources that are directories: class folders, with or without splits, and flat folders with or without captions."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from opsin.counts import number_of
from opsin.errors import DataError
from opsin.images.opening import IMAGE_SUFFIXES, Skipped
from opsin.names import name_key, one_spelling, printable
from opsin.sources.exclusion import Exclusion
from opsin.sources.image_source import SPLIT_NAMES, SPLITS, UNLABELLED, Files, ImageSource
from opsin.sources.image_tables import unread_text_files, with_tables
from opsin.sources.listing import LINK_TO_FOLDER, WRITTEN_BY_OPSIN, Listing, in_one_line, unread_formats

logger = logging.getLogger(__name__)
Parts = tuple[str, ...]
"""A path relative to the directory of a source: the names of its folders, and that of the file."""


@dataclass
class _Rows:
    """What a layout found. `classes` is empty when no image has a label, `splits` when the layout has none."""

    images: list[Parts] = field(default_factory=list)
    classes: list[str | None] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def folder_source(directory: Path, name: str, *, labels: bool = True, exclude: Sequence[str] = ()) -> ImageSource:
    """Images below a directory.

    Layouts: `train/…`, `val/…`, `test/…`, each with class folders or flat; `CLASS/…` (images at any depth below the
    class's folder); images directly in the directory. Where there are images in folders and beside them, the larger
    number decides: most beside them, and all of them count, without labels; else the folders are classes, and those
    beside them are left out, unless `labels` is false, which says that images without a label are of use. Tables
    in the directory or its split folders give labels, captions and splits, and captions are in `NAME.txt` beside
    `NAME.jpg`; see `opsin.sources.image_tables`.
    `exclude` are patterns of what is not looked at; see `Exclusion`.
    Raises DataError when no image is found, when two classes cannot be told apart by name, and when splits lie deeper
    than at the top: images to test on would be trained on.
    """
    contents = _Contents(directory, Exclusion(exclude))
    splits = _split_folders(contents)
    rows = _rows_of_splits(contents, splits, labels) if splits else _rows_below(contents, (), labels)
    left_out = contents.left_out()
    if not rows.images:
        raise DataError(
            f"no image was found in {printable(name)}; tried train/CLASS/*, CLASS/*, images directly inside, and "
            f"*.parquet (image files end in {', '.join(sorted(IMAGE_SUFFIXES))})"
            + "".join(f"; {row.id}: {row.reason}" for row in left_out)
        )
    _refuse_deeper_splits(directory, rows.images)
    paths = [directory.joinpath(*image) for image in rows.images]
    _note_joined(rows)
    source = ImageSource(
        name=name,
        ids=["/".join(image) for image in rows.images],
        loader=Files(paths),
        rows=np.arange(len(paths)),
        **_labels(directory, rows.classes),
        seen_instead_of_captions=partial(unread_text_files, directory),
        splits=np.array(rows.splits) if rows.splits else None,
        skipped=rows.skipped,
    )
    everything = [directory.joinpath(*image) for image in contents.images]
    source = with_tables(source, directory, everything, {directory / folder: split for folder, split in splits.items()})
    return replace(source, skipped=[*source.skipped, *left_out])


def _labels(directory: Path, classes: Sequence[str | None]) -> dict[str, Any]:
    """The fields `labels` and `class_names` of a source; none for no classes.

    A class has the name of its folder as text that can be printed and kept. Folders whose names people read as equal,
    in two splits or in one, are one class. DataError when two others have one printed name.
    """
    if not classes:
        return {}
    names = {folder: printable(folder) for folder in set(classes) if folder is not None}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise DataError(f"two class folders of {directory} are called {twice!r} when printed; rename one of them")
    spelling = one_spelling(names[folder] for folder in classes if folder is not None)
    class_names = tuple(sorted(set(spelling.values())))
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    labels = [UNLABELLED if folder is None else numbers[spelling[names[folder]]] for folder in classes]
    return {"labels": np.array(labels, dtype=np.int64), "class_names": class_names}


def _note_joined(rows: _Rows) -> None:
    """Log which folders of one class stand side by side: a person may have meant two, such as letters of two cases."""
    depth = 1 if rows.splits else 0
    names: dict[tuple[Parts, str], set[str]] = defaultdict(set)
    for image, name in zip(rows.images, rows.classes, strict=False):
        if name is not None:
            names[image[:depth], name_key(name)].add(name)
    for joined in sorted({tuple(sorted(spellings)) for spellings in names.values()}):
        if len(joined) > 1:
            logger.warning("the folders %s are read as one class", " and ".join(map(repr, joined)))


# ----------------------------------------------------------------------------------------------- what is there


class _Contents:
    """The images below a directory, in order, and what was left out of them.

    Links to folders are followed where classes may lie: at the top, and in split folders.
    """

    def __init__(self, directory: Path, exclusion: Exclusion) -> None:
        self._exclusion = exclusion
        self._listing = Listing(directory, exclusion=exclusion)
        self._followed: set[str] = set()
        found = {file.id for file in self._listing.files()}
        for depth in (0, 1):  # what a link leads to may hold links
            for link in [link for link in self._listing.links if link.count("/") == depth]:
                if depth == 0 or _split_of(link.split("/")[0]):
                    found |= {file.id for file in self._listing.files(link)}
                    self._followed.add(link)
        self.images: list[Parts] = sorted(tuple(id.split("/")) for id in found)

    def below(self, folder: Parts) -> list[Parts]:
        """The images at any depth below a folder."""
        return [image for image in self.images if image[: len(folder)] == folder]

    def empty_folders(self, folder: Parts) -> list[str]:
        """Folders directly in this one that hold no image, not even one that opsin has written."""
        start = "".join(f"{part}/" for part in folder)
        used = {"/".join(image[: len(folder) + 1]) for image in self.images}
        used |= {"/".join(path.split("/")[: len(folder) + 1]) for path in self._listing.outputs}
        there = [path for path in self._listing.folders if path.startswith(start) and "/" not in path[len(start) :]]
        return sorted(path for path in there if path and path not in used)

    def left_out(self) -> list[Skipped]:
        """What the listing has left out, each reason in one line."""
        ids: dict[str, list[str]] = defaultdict(list)
        for row in self._listing.skipped:
            ids[row.reason].append(row.id)
        ids[LINK_TO_FOLDER] = [link for link in self._listing.links if link not in self._followed]
        ids[WRITTEN_BY_OPSIN] = self._listing.outputs
        excluded = [Skipped(printable(pattern), reason) for pattern, reason in self._exclusion.report().items()]
        rows = [row for reason, named in ids.items() for row in in_one_line(sorted(named), reason)]
        return [*rows, *excluded, *unread_formats(self._listing.other_files)]


# ----------------------------------------------------------------------------------------------------- layouts


def _split_folders(contents: _Contents) -> dict[str, str]:
    """The folders that are splits, with the split; empty when the directory has another layout."""
    counts = Counter(image[0] if len(image) > 1 else "" for image in contents.images)
    named = {folder: split for folder in sorted(counts) if (split := _split_of(folder))}
    if len(set(named.values())) == 1 and counts.keys() - named.keys() - {""}:
        return {}  # a lone `train` beside `bus` and `ship` is a class
    return named if sum(counts[folder] for folder in named) >= counts[""] else {}


def _split_of(folder: str) -> str | None:
    return SPLIT_NAMES.get(name_key(folder))


def _rows_of_splits(contents: _Contents, splits: Mapping[str, str], labels: bool) -> _Rows:
    found = {folder: _rows_below(contents, (folder,), labels) for folder in splits}
    is_labelled = any(rows.classes for rows in found.values())
    total = _Rows()
    for folder, rows in found.items():
        total.skipped += rows.skipped
        if is_labelled and not rows.classes:
            reason = (
                f"has no class folders, and other splits have; left out with its {number_of(len(rows.images), 'image')}"
            )
            total.skipped.append(Skipped(printable(folder), reason))
            continue
        total.images += rows.images
        total.classes += rows.classes
        total.splits += [splits[folder]] * len(rows.images)
    strays = [image for image in contents.images if image[0] not in splits]
    outside = f"lies outside {', '.join(map(printable, splits))}"
    for folder, count in Counter(image[0] for image in strays if len(image) > 1).items():
        total.skipped.append(
            Skipped(printable(folder), outside + (f" ({number_of(count, 'image')})" if count > 1 else ""))
        )
    total.skipped += in_one_line([image[0] for image in strays if len(image) == 1], outside)
    return total


def _rows_below(contents: _Contents, folder: Parts, labels: bool) -> _Rows:
    """Class folders, images directly inside, or both. A folder without any image is listed and becomes no class."""
    depth = len(folder)
    images = contents.below(folder)
    direct = ["/".join(image) for image in images if len(image) == depth + 1]
    if len(direct) > len(images) / 2:
        # Also here no image of a folder called `test` is trained on.
        splits = [(len(image) > 1 and _split_of(image[0])) or "train" for image in images]
        return _Rows(images, splits=splits if set(splits) != {"train"} else [])
    empty = [Skipped(printable(path), "is a class folder without an image") for path in contents.empty_folders(folder)]
    if not labels:
        classes = [image[depth] if len(image) > depth + 1 else None for image in images]
        return _Rows(images, classes, skipped=empty)
    nested = [image for image in images if len(image) > depth + 1]
    skipped = [*empty, *in_one_line(direct, "lies outside the class folders")]
    return _Rows(nested, [image[depth] for image in nested], skipped=skipped)


def _refuse_deeper_splits(directory: Path, images: Iterable[Parts]) -> None:
    """Raise DataError where a folder other than the directory itself has folders of two splits: without them being
    told apart, images to test on would be trained on."""
    splits_in: dict[Parts, dict[str, str]] = defaultdict(dict)
    for folders in dict.fromkeys(image[:-1] for image in images):
        for depth, name in enumerate(folders[1:], start=1):
            if split := _split_of(name):
                splits_in[folders[:depth]][split] = name
    found = {folder: names for folder, names in splits_in.items() if len(names) > 1}
    if not found:
        return
    first = min(found, key=len)
    names = " and ".join(printable(found[first][split]) for split in SPLITS if split in found[first])
    more = f", as in {len(found) - 1} other folders" if len(found) > 1 else ""
    raise DataError(
        f"the splits {names} lie in the folder {printable('/'.join(first))} of {directory}{more}, so that images held "
        f"out would be trained on; give {printable(str(directory.joinpath(*first)))} as the source"
    )
