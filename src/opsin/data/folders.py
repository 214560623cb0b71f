"""Sources that are directories: class folders, with or without splits, and flat folders with or without captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from opsin.data.caption_tables import read_captions, unread_text_files
from opsin.data.image_source import SPLIT_NAMES, ImageSource
from opsin.data.images import IMAGE_SUFFIXES, Skipped, find_images, open_image, unread_images
from opsin.data.names import printable
from opsin.errors import DataError


@dataclass
class _Rows:
    """What a layout found. `classes` is empty when the images have no labels, `splits` when the layout has none."""

    paths: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def folder_source(directory: Path, name: str) -> ImageSource:
    """Images below a directory.

    Layouts, tried in this order: `train/…`, `val/…`, `test/…`, each with class folders or flat; `CLASS/…` (images at
    any depth below the class's folder); images directly in the directory. Captions come from `metadata.jsonl` and
    `captions.csv` in the directory or its split folders, else from `NAME.txt` beside `NAME.jpg`; see
    `opsin.data.caption_tables`.
    Raises DataError when no image is found in any of them, or when two classes cannot be told apart by name.
    """
    split_folders = _split_folders(directory)
    rows = _rows_of_splits(directory, split_folders)
    if not rows.paths:
        split_folders = {}
        rows = _rows_below(directory)
    unread = unread_images(directory)
    if not rows.paths:
        raise DataError(
            f"no image was found in {directory}; tried train/CLASS/*, CLASS/*, images directly inside, and *.parquet "
            f"(image files end in {', '.join(sorted(IMAGE_SUFFIXES))})"
            + "".join(f"; {row.id}: {row.reason}" for row in unread)
        )
    names = _class_names(directory, rows.classes)
    class_names = tuple(sorted(names.values()))
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    paths = rows.paths
    captions, unmatched = read_captions([directory, *split_folders], paths)
    return ImageSource(
        name=name,
        ids=[path.relative_to(directory).as_posix() for path in paths],
        loader=partial(_load, paths),
        rows=np.arange(len(paths)),
        labels=np.array([numbers[names[folder]] for folder in rows.classes], dtype=np.int64) if rows.classes else None,
        class_names=class_names or None,
        captions=captions,
        seen_instead_of_captions=partial(unread_text_files, directory),
        splits=np.array(rows.splits) if rows.splits else None,
        skipped=[*rows.skipped, *unmatched, *unread],
    )


def _class_names(directory: Path, folders: Sequence[str]) -> dict[str, str]:
    """The class of each folder: its name as text that can be printed and kept. DataError when two have the same."""
    names = {folder: printable(folder) for folder in set(folders)}
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise DataError(f"two class folders of {directory} are called {twice!r} when printed; rename one of them")
    return names


def _load(paths: Sequence[Path], row: int) -> Image.Image:
    return open_image(paths[row])


def _split_folders(directory: Path) -> dict[Path, str]:
    """The folders that are splits, with the split; empty when the directory has another layout."""
    folders = _visible_folders(directory)
    named = {folder: SPLIT_NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_NAMES}
    # A lone `train` beside `bus` and `ship` is a class, but not beside folders without images.
    if len(set(named.values())) == 1 and any(find_images(folder) for folder in folders if folder not in named):
        return {}
    return named


def _rows_of_splits(directory: Path, split_folders: Mapping[Path, str]) -> _Rows:
    found = {folder: _rows_below(folder) for folder in split_folders}
    labelled = any(rows.classes for rows in found.values())
    total = _Rows()
    for folder, rows in found.items():
        total.skipped += [Skipped(f"{folder.name}/{row.id}", row.reason) for row in rows.skipped]
        if labelled and not rows.classes:
            reason = f"has no class folders, and other splits have; left out with its {len(rows.paths)} images"
            total.skipped.append(Skipped(folder.name, reason))
            continue
        total.paths += rows.paths
        total.classes += rows.classes
        total.splits += [split_folders[folder]] * len(rows.paths)
    strays = [path.name for path in (*_visible_folders(directory), *_direct_images(directory)) if path not in found]
    total.skipped += [Skipped(stray, f"lies outside {', '.join(folder.name for folder in found)}") for stray in strays]
    return total


def _rows_below(directory: Path) -> _Rows:
    """Class folders, else the images directly inside. A folder without any image is listed and becomes no class."""
    contents = {folder.name: find_images(folder) for folder in _visible_folders(directory)}
    direct = _direct_images(directory)
    if not any(contents.values()):
        return _Rows(direct)
    return _Rows(
        [path for images in contents.values() for path in images],
        [name for name, images in contents.items() for _ in images],
        skipped=[
            *(Skipped(name, "a class folder without an image") for name, images in contents.items() if not images),
            *(Skipped(path.name, "lies outside the class folders") for path in direct),
        ],
    )


def _visible_folders(directory: Path) -> list[Path]:
    """Folders that are not hidden, in order; links to folders count, unless they lead to where they are."""
    here = directory.resolve()
    return sorted(
        path
        for path in directory.iterdir()
        if not path.name.startswith(".") and path.is_dir() and not here.is_relative_to(path.resolve())
    )


def _direct_images(directory: Path) -> list[Path]:
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
