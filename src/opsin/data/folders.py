"""Sources that are directories: class folders, with or without splits, and flat folders with or without captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def folder_source(directory: Path, name: str) -> ImageSource:
    """Images below a directory.

    Layouts, tried in this order: `train/CLASS/…`, `val/CLASS/…`, `test/CLASS/…`; `CLASS/…` (images at any depth below
    the class's folder); images directly in the directory, with captions from `metadata.jsonl` or from `NAME.txt` beside
    `NAME.jpg`. Raises DataError when no image is found in any of them.
    """
    folders = _visible_folders(directory)
    split_folders = {folder: SPLIT_FOLDERS.get(folder.name.lower()) for folder in folders}
    # `train` beside `bus` and `ship` is a class; only where every folder is named like a split are they splits.
    if "train" in split_folders.values() and None not in split_folders.values():
        return _split_source(directory, split_folders, name)
    paths, labels, class_names, skipped = _class_rows(directory, folders)
    if paths:
        strays = [Skipped(path.name, "lies outside the class folders") for path in _direct_images(directory)]
        return _source(directory, name, paths, labels=labels, class_names=class_names, skipped=skipped + strays)
    images = _direct_images(directory)
    if not images:
        raise DataError(
            f"no image was found in {directory}; tried train/CLASS/*, CLASS/*, images directly inside, and *.parquet "
            f"(image files end in {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return _source(directory, name, images, captions=_captions(directory, images))


def _split_source(directory: Path, split_folders: Mapping[Path, str | None], name: str) -> ImageSource:
    paths: list[Path] = []
    labels: list[str] = []
    splits: list[str] = []
    skipped: list[Skipped] = []
    for folder, split in sorted(split_folders.items()):
        found, indices, class_names, left_out = _class_rows(folder, _visible_folders(folder))
        if not found:
            found = _direct_images(folder)
        paths += found
        labels += [class_names[index] for index in indices]
        splits += [str(split)] * len(found)
        skipped += [Skipped(f"{folder.name}/{row.id}", row.reason) for row in left_out]
    if not paths:
        raise DataError(
            f"no image was found in {directory}: {', '.join(sorted(f.name for f in split_folders))} are all empty"
        )
    if labels and len(labels) != len(paths):
        raise DataError(
            f"in {directory} some of the folders for training, validation and test have class folders and some do not"
        )
    names = tuple(sorted(set(labels)))
    numbers = [names.index(label) for label in labels]
    return _source(directory, name, paths, labels=numbers, class_names=names, splits=np.array(splits), skipped=skipped)


def _class_rows(
    directory: Path, folders: Sequence[Path]
) -> tuple[list[Path], list[int], tuple[str, ...], list[Skipped]]:
    """Image paths, class numbers, class names; a folder without any image is listed and does not become a class."""
    contents = {folder.name: find_images(folder) for folder in folders}
    skipped = [Skipped(name, "a class folder without an image") for name, images in contents.items() if not images]
    names = tuple(sorted(name for name, images in contents.items() if images))
    paths = [path for name in names for path in contents[name]]
    labels = [index for index, name in enumerate(names) for _ in contents[name]]
    return paths, labels, names, skipped


def _source(
    directory: Path,
    name: str,
    paths: Sequence[Path],
    *,
    labels: Sequence[int] | None = None,
    class_names: tuple[str, ...] | None = None,
    captions: list[tuple[str, ...]] | None = None,
    splits: np.ndarray | None = None,
    skipped: list[Skipped] | None = None,
) -> ImageSource:
    ids = [path.relative_to(directory).as_posix() for path in paths]

    def load(row: int) -> Image.Image:
        return open_image(paths[row])

    return ImageSource(
        name=name,
        ids=ids,
        loader=load,
        rows=np.arange(len(ids)),
        labels=np.array(labels, dtype=np.int64) if labels else None,
        class_names=class_names or None,
        captions=captions,
        splits=splits,
        skipped=skipped or [],
    )


def _captions(directory: Path, images: Sequence[Path]) -> list[tuple[str, ...]] | None:
    """Captions of a flat folder, or None when it has none. An image without one gets an empty tuple."""
    metadata = directory / "metadata.jsonl"
    if metadata.is_file():
        return _metadata_captions(metadata, images)
    sidecars = [path.with_suffix(".txt") for path in images]
    if not any(sidecar.is_file() for sidecar in sidecars):
        return None
    captions = []
    for sidecar in sidecars:
        lines = sidecar.read_text(encoding="utf-8", errors="replace").splitlines() if sidecar.is_file() else []
        captions.append(tuple(line.strip() for line in lines if line.strip()))
    return captions


def _metadata_captions(metadata: Path, images: Sequence[Path]) -> list[tuple[str, ...]]:
    captions: dict[str, list[str]] = {path.name: [] for path in images}
    missing = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            file_name = row["file_name"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{metadata}, line {number}: expected a JSON object with `file_name` and `text`") from error
        texts: str | list[str] = next((row[key] for key in ("captions", "caption", "text") if key in row), [])
        if file_name in captions:
            captions[file_name] += [texts] if isinstance(texts, str) else list(texts)
        else:
            missing.append(file_name)
    if missing and not any(captions.values()):
        raise DataError(
            f"{metadata} names no image that is there; for example {missing[0]!r} is not in {metadata.parent}"
        )
    return [tuple(captions[path.name]) for path in images]


def _visible_folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def _direct_images(directory: Path) -> list[Path]:
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
