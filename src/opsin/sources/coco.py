"""COCO captions: annotation files in JSON, and the images that they name.

"Microsoft COCO Captions: Data Collection and Evaluation Server", Chen et al. 2015. A file holds `images` (`id`,
`file_name`) and `annotations` (`image_id`, `caption`); other fields are not read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from opsin.counts import agree, none_of, number_of
from opsin.errors import DataError, DataNotFoundError
from opsin.images.opening import Skipped
from opsin.names import printable
from opsin.sources.image_names import ImagesByName
from opsin.sources.image_source import Files, ImageSource, split_of_file, without_split
from opsin.sources.listing import find_images
from opsin.sources.tables import clean_texts, read_text


@dataclass(frozen=True)
class _Annotations:
    """One annotation file: captions by file name, in the order of its images."""

    path: Path
    captions: dict[str, list[str]]
    skipped: list[Skipped]


def coco_source(directory: Path, name: str) -> ImageSource:
    """Images with the captions of COCO annotation files.

    The files are `annotations/captions_*.json`, else `captions_*.json` or the only JSON file in the directory; what
    their names say (`train2014`, `val2017`) becomes the split; where some say one, the others are left out. Images may
    lie anywhere below the directory, and are named as `ImagesByName` says; of several with the same name, the one in
    the folder that the annotation file is named for counts. Files that are left out, and images that are not there, are
    listed in `skipped`. Raises DataError when no image is found, when a file name means several, and when an annotation
    file is damaged, is no such file, or has captions for ids that are not among its images.
    """
    files = _annotation_files(directory)
    split_of = {file: _folder_and_split(file)[1] for file in files}
    left_out = without_split(split_of)
    files = [file for file in files if split_of[file] or not left_out]
    images = find_images(directory)
    by_name = ImagesByName(images)
    paths: list[Path] = []
    captions: list[tuple[str, ...]] = []
    splits: list[str | None] = []
    skipped: list[Skipped] = []
    for file in map(_read, files):
        folder, split = _folder_and_split(file.path)
        skipped += file.skipped
        for file_name, texts in file.captions.items():
            places = by_name.find(f"{folder}/{file_name}", directory) or by_name.find(file_name, directory)
            if not places:
                skipped.append(Skipped(printable(file_name), f"named in {file.path.name}, but no such image is there"))
                continue
            if len(places) > 1:
                raise _ambiguous(file, file_name, [images[place].relative_to(directory) for place in places])
            paths.append(images[places[0]])
            captions.append(tuple(texts))
            splits.append(split)
    if not paths and not skipped:
        raise DataError(f"{files[0]} names no image")
    if not paths:
        examples = ", ".join(repr(row.id) for row in skipped[:3])
        raise DataError(
            f"{none_of(len(skipped), 'image')} that {files[0].name} names is below {directory}, for example {examples}"
        )
    ids = [path.relative_to(directory).as_posix() for path in paths]
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(f"two annotation files in {directory} name the same image, for example {twice!r}")
    return ImageSource(
        name=name,
        ids=ids,
        loader=Files(paths),
        rows=np.arange(len(paths)),
        captions=captions,
        splits=np.array([split or "train" for split in splits]) if any(splits) else None,
        skipped=[*left_out, *skipped],
    )


def _ambiguous(file: _Annotations, file_name: str, images: Sequence[Path]) -> DataError:
    names = " and ".join(printable(image.as_posix()) for image in images[:3])
    return DataError(
        f"{file.path} names {file_name!r}, and several images below the directory are called so: {names}; move those "
        "that are not meant elsewhere, or name the image with its folder"
    )


def _annotation_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise DataNotFoundError(f"there is no directory {directory}")
    for pattern in ("annotations/captions_*.json", "captions_*.json"):
        if files := sorted(filter(Path.is_file, directory.glob(pattern))):
            return files
    files = sorted(filter(Path.is_file, directory.glob("*.json")))
    if len(files) != 1:
        raise DataError(
            f"no COCO captions in {directory}; tried annotations/captions_*.json, captions_*.json and a single *.json"
        )
    return files


def _folder_and_split(path: Path) -> tuple[str, str | None]:
    """`train2014` and `train` of `captions_train2014.json`; no split for a name that says none."""
    folder = path.stem.removeprefix("captions_")
    return folder, split_of_file(folder)


def _read(path: Path) -> _Annotations:
    try:
        content = json.loads(read_text(path))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is not a readable JSON file: {error}") from error
    images = _entries(content, "images", {"id": (int, str), "file_name": (str,)}, path)
    annotations = _entries(content, "annotations", {"image_id": (int, str), "caption": (str, NoneType)}, path)
    names: dict[Any, str] = {}
    skipped = []
    for entry in images:
        if names.setdefault(entry["id"], entry["file_name"]) != entry["file_name"]:
            raise DataError(f"{path}: the id {entry['id']!r} stands for two images, {names[entry['id']]!r} is one")
    if len(names) < len(images):
        skipped.append(
            Skipped(path.name, f"lists {number_of(len(images) - len(names), 'image')} twice; each counts once")
        )
    captions: dict[str, list[str]] = {file_name: [] for file_name in names.values()}
    if repeated := len(names) - len(captions):
        raise DataError(
            f"{path}: {repeated} of its images {agree(repeated, 'has', 'have')} the file name of another one"
        )
    unknown = list(dict.fromkeys(entry["image_id"] for entry in annotations if entry["image_id"] not in names))
    if unknown:
        examples = ", ".join(map(repr, unknown[:3]))
        raise DataError(
            f"{path}: {number_of(len(unknown), 'image id')} {agree(len(unknown), 'has', 'have')} captions "
            f"but no image, for example {examples}"
        )
    for entry in annotations:
        captions[names[entry["image_id"]]] += clean_texts([entry["caption"] or ""])
    return _Annotations(path, captions, skipped)


def _entries(content: Any, key: str, fields: Mapping[str, tuple[type, ...]], path: Path) -> list[dict[str, Any]]:
    """The list under `key`, whose entries all have these fields; DataError naming the first that has not."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path} is no file of COCO captions: it has no list {key!r}")
    for number, entry in enumerate(entries):
        for field, types in fields.items():
            if not isinstance(entry, dict) or field not in entry or not isinstance(entry[field], types):
                raise DataError(f"{path}: entry {number} of {key!r} has no usable {field!r}")
    return entries
