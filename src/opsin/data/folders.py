"""Sources that are directories: class folders, with or without splits, and flat folders with or without captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opsin.data.images import IMAGE_SUFFIXES, Skipped, find_images, open_image
from opsin.data.sources import ImageSource
from opsin.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


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
    any depth below the class's folder); images directly in the directory. Captions come from `metadata.jsonl` in the
    directory or its split folders, else, for images without classes, from `NAME.txt` beside `NAME.jpg`.
    Raises DataError when no image is found in any of them.
    """
    split_folders = _split_folders(directory)
    rows = _rows_of_splits(directory, split_folders)
    if not rows.paths:
        split_folders = {}
        rows = _rows_below(directory)
    if not rows.paths:
        raise DataError(
            f"no image was found in {directory}; tried train/CLASS/*, CLASS/*, images directly inside, and *.parquet "
            f"(image files end in {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    class_names = tuple(sorted(set(rows.classes)))
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    paths = rows.paths
    return ImageSource(
        name=name,
        ids=[path.relative_to(directory).as_posix() for path in paths],
        loader=partial(_load, paths),
        rows=np.arange(len(paths)),
        labels=np.array([numbers[class_name] for class_name in rows.classes], dtype=np.int64) if rows.classes else None,
        class_names=class_names or None,
        captions=_captions([directory, *split_folders], paths, sidecars=not rows.classes),
        splits=np.array(rows.splits) if rows.splits else None,
        skipped=rows.skipped,
    )


def _load(paths: Sequence[Path], row: int) -> Image.Image:
    return open_image(paths[row])


def _split_folders(directory: Path) -> dict[Path, str]:
    """The folders that are splits, with the split; empty when the directory has another layout."""
    folders = _visible_folders(directory)
    named = {folder: SPLIT_FOLDERS[folder.name.lower()] for folder in folders if folder.name.lower() in SPLIT_FOLDERS}
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


def _captions(directories: Sequence[Path], images: Sequence[Path], *, sidecars: bool) -> list[tuple[str, ...]] | None:
    """Captions of each image, or None when there are none at all. An image without one gets an empty tuple."""
    tables = [path for directory in directories if (path := directory / "metadata.jsonl").is_file()]
    if tables:
        captions: dict[Path, list[str]] = {path: [] for path in images}
        for table in tables:
            _read_metadata(table, captions)
        return [tuple(captions[path]) for path in images]
    texts = [path.with_suffix(".txt") for path in images] if sidecars else []
    return [_read_sidecar(path) for path in texts] if any(path.is_file() for path in texts) else None


def _read_sidecar(path: Path) -> tuple[str, ...]:
    """One caption a line."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []
    return tuple(line.strip() for line in lines if line.strip())


def _read_metadata(metadata: Path, captions: dict[Path, list[str]]) -> None:
    """Add the captions of one `metadata.jsonl` to those of the images that it names, by paths relative to it."""
    missing, known = [], False
    try:
        lines = metadata.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata} is not UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        file_name, texts = _metadata_row(line, f"{metadata}, line {number}")
        image = metadata.parent / file_name
        if image in captions:
            captions[image] += texts
            known = True
        else:
            missing.append(file_name)
    if missing and not known:
        raise DataError(
            f"{metadata} names no image that is there; for example {missing[0]!r} is not in {metadata.parent}"
        )


def _metadata_row(line: str, where: str) -> tuple[str, list[str]]:
    problem = f"{where}: expected a JSON object with `file_name` and a `text`, or a list of them in `captions`"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(problem) from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise DataError(problem)
    texts: Any = next((row[key] for key in ("captions", "caption", "text") if row.get(key) is not None), [])
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(problem)
    return row["file_name"], texts


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
