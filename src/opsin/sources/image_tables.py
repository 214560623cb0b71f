"""What the tables and text files in a folder say about its images: labels, captions and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opsin.counts import agree, number_of
from opsin.errors import DataError
from opsin.images.opening import IMAGE_SUFFIXES, Skipped
from opsin.names import name_key, printable
from opsin.sources.image_names import ImagesByName
from opsin.sources.image_source import SPLITS, Files, ImageSource, label_fields, number_labels
from opsin.sources.listing import find_images, in_one_line
from opsin.sources.tables import Row, Table, clean_texts, find_tables, holds_labels_by_name, read_table

FEWEST_OF_TABLES = 0.1
"""Of the images in class folders so large a share must have a label by a table for the table to count instead: one with
names of classes by number may happen to fit a few images."""


@dataclass
class Described:
    """What tables say about each of some images, in the order of these."""

    labels: list[list[str]]
    captions: list[list[str]]
    splits: list[str | None]
    unused: set[int] = field(default_factory=set)
    """The places of images of another split than train, val and test."""
    has_labels: bool = False
    has_captions: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    """What could not be used, and why."""

    def label_fields(self, places: Sequence[int]) -> Mapping[str, Any]:
        """Labels of the images at these places, as fields of an ImageSource."""
        return label_fields(*number_labels([self.labels[place] for place in places]))

    def captions_of(self, places: Sequence[int]) -> list[tuple[str, ...]] | None:
        """Captions of the images at these places; None where no table has any."""
        return [tuple(self.captions[place]) for place in places] if self.has_captions else None


def describe(images: Sequence[Path], directories: Sequence[Path], *, has_classes: bool = False) -> Described:
    """What the tables in these directories say about images; see `find_tables` and `ImagesByName`.

    Two labels of an image in a column for one contradict each other: it then has none. An image of two splits is held
    out. A table of labels, or of a split, that is unusable is skipped where another one gives labels, or `has_classes`
    says that folders do. Raises DataError for other tables that cannot be read or name no image that is there.
    """
    tables: list[Table] = []
    failed: list[tuple[Path, DataError]] = []
    by_name = ImagesByName(images)
    found: list[list[tuple[int, Row]]] = []
    skipped: list[Skipped] = []
    for path in [path for directory in directories for path in find_tables(directory)]:
        try:
            table = read_table(path)
            found.append(_match(table, by_name, skipped))
            tables.append(table)
        except DataError as error:
            if not holds_labels_by_name(path):
                raise
            failed.append((path, error))
    if failed and not has_classes and not any(table.has_labels for table in tables):
        raise failed[0][1]
    skipped += [Skipped(printable(path.name), f"was not used: {error}") for path, error in failed]
    reason = "was not used: it has no column of labels, captions or splits"
    skipped += [Skipped(printable(table.path.name), reason) for table in tables if not table.is_of_use]
    return _described(images, tables, found, skipped)


def with_tables(
    source: ImageSource, directory: Path, images: Sequence[Path], split_folders: Mapping[Path, str]
) -> ImageSource:
    """A source of a directory with what tables in it and in its split folders say; without a table of captions, these
    are those of text files beside the images.

    `images` are all images of the directory. They are all in the source where a table gives labels, which then count
    instead of those of class folders. Raises DataError as `describe` does.
    """
    described = describe(images, [directory, *split_folders], has_classes=source.labels is not None)
    skipped = [*described.skipped, *source.skipped]
    count = sum(map(bool, described.labels))
    if source.labels is not None and 0 < count < FEWEST_OF_TABLES * len(source):
        reason = f"tables give {number_of(count, 'image')} a label, far fewer than the class folders, which count"
        skipped.append(Skipped(printable(directory.name), reason))
    elif count:
        skipped = [*described.skipped, *_other_classes(source, directory, images, described)]
        splits = [next((split for top, split in split_folders.items() if top in path.parents), None) for path in images]
        source = ImageSource(
            name=source.name,
            ids=[_id(image, directory) for image in images],
            loader=Files(images),
            rows=np.arange(len(images)),
            **described.label_fields(range(len(images))),
            seen_instead_of_captions=source.seen_instead_of_captions,
            splits=np.array([split or "train" for split in splits]) if any(splits) else None,
        )
    place_of = {_id(image, directory): place for place, image in enumerate(images)}
    places = [place_of[id] for id in source.ids]
    captions = described.captions_of(places)
    if captions is None:
        captions, unread = read_sidecars([images[place] for place in places], directory)
        skipped += unread
    if any(described.splits):
        own = source.splits if source.splits is not None else ["train"] * len(source)
        named = [described.splits[place] or str(split) for place, split in zip(places, own, strict=True)]
        source = replace(source, splits=np.array(named))
    source = replace(source, captions=captions, skipped=skipped)
    return source.select(np.array([place not in described.unused for place in places], dtype=bool))


def _other_classes(source: ImageSource, directory: Path, images: Sequence[Path], described: Described) -> list[Skipped]:
    """A remark on images that tables give another class than their folders do."""
    if source.labels is None or source.class_names is None or len(source.class_names) < 2:
        return []  # all images in a folder called `images`, say
    keys = [*map(name_key, source.class_names), None]  # the last is that of UNLABELLED
    of_folder = {id: keys[label] for id, label in zip(source.ids, source.labels, strict=True)}
    other = [
        id
        for image, labels in zip(images, described.labels, strict=True)
        if labels and of_folder.get(id := _id(image, directory)) not in (None, *map(name_key, labels))
    ]
    return in_one_line(other, "has another class by its folder than by a table, which counts")


def table_source(path: Path, name: str) -> ImageSource:
    """The images that a table names, with what it says about them.

    They are named as `ImagesByName` says; where the table is called `train.csv`, perhaps from a folder `train` beside
    it. Raises DataError when none is there.
    """
    table = read_table(path, named=True)
    direct = [path.parent / file_name for file_name in dict.fromkeys(row.file_name for row in table.rows)]
    if all(image.suffix.lower() in IMAGE_SUFFIXES and image.is_file() for image in direct):
        images = direct  # without a look at all that lies below the folder
    else:
        images = find_images(path.parent)
    skipped: list[Skipped] = []
    found = _match(table, ImagesByName(images), skipped)
    described = _described(images, [table], [found], skipped)
    used = sorted({place for place, _ in found} - described.unused)
    paths = [images[place] for place in used]
    if not paths:
        raise DataError(f"{path} names no image")
    splits = [described.splits[place] for place in used]
    captions = described.captions_of(used)
    if captions is None:
        captions, unread = read_sidecars(paths, path.parent)
        skipped += unread
    return ImageSource(
        name=name,
        ids=[_id(image, path.parent) for image in paths],
        loader=Files(paths),
        rows=np.arange(len(paths)),
        **described.label_fields(used),
        captions=captions,
        splits=np.array([split or "train" for split in splits]) if any(splits) else None,
        skipped=skipped,
    )


def _id(image: Path, folder: Path) -> str:
    return (image.relative_to(folder) if image.is_relative_to(folder) else image).as_posix()


def _match(table: Table, by_name: ImagesByName, skipped: list[Skipped]) -> list[tuple[int, Row]]:
    """The rows of a table with the places of their images; names that mean none or several are listed in `skipped`."""
    folder = table.path.parent
    missing: dict[str, None] = {}
    unclear: dict[str, None] = {}
    found = []
    for row in table.rows:
        places = by_name.find(row.file_name, folder, table.folders)
        if len(places) == 1:
            found.append((places[0], row))
        else:
            (unclear if places else missing)[row.file_name] = None
    if not found and (missing or unclear):
        examples = ", ".join(map(repr, [*missing, *unclear][:3]))
        if not missing:
            raise DataError(f"{table.path} names images of which several are there; for example {examples}")
        raise DataError(
            f"{table.path} names no image that is there; for example {examples} "
            f"{'is' if len(missing) + len(unclear) == 1 else 'are'} not in {folder}"
        )
    name = printable(table.path.name)
    skipped += in_one_line(list(missing), f"named in {name}, but no such image is there")
    skipped += in_one_line(list(unclear), f"named in {name}, but several such images are there")
    return found


def _described(
    images: Sequence[Path],
    tables: Sequence[Table],
    found: Sequence[Sequence[tuple[int, Row]]],
    skipped: list[Skipped],
) -> Described:
    described = Described([[] for _ in images], [[] for _ in images], [None] * len(images), skipped=skipped)
    splits: list[set[str]] = [set() for _ in images]
    words: set[str] = set()
    for table, rows in zip(tables, found, strict=True):
        names_splits = any(row.split in SPLITS for _, row in rows)
        described.has_labels |= table.has_labels
        described.has_captions |= table.has_captions
        for place, row in rows:
            described.labels[place] += row.labels
            described.captions[place] += row.captions
            split = row.split if row.split in SPLITS else table.split
            splits[place] |= {split} if split else set()
            if names_splits and row.split and row.split not in SPLITS:
                described.unused.add(place)
                words.add(row.split)
    described.splits = [max(names, key=SPLITS.index) if names else None for names in splits]
    of_two = [image.name for image, names in zip(images, splits, strict=True) if len(names) > 1]
    skipped += in_one_line(of_two, "is of several splits, and held out")
    others = ", ".join(map(printable, sorted(words)))
    reason = f"is of the split {others}, which is none of {', '.join(SPLITS)}; left out"
    skipped += in_one_line([images[place].name for place in sorted(described.unused)], reason)
    if not any(table.several for table in tables):
        skipped += _drop_contradictions(described.labels, images)
    return described


def _drop_contradictions(labels: list[list[str]], images: Sequence[Path]) -> list[Skipped]:
    contradicted = []
    for place, names in enumerate(labels):
        different = {name_key(name): name for name in names}
        if len(different) > 1:
            contradicted.append(f"{images[place].name} ({' and '.join(different.values())})")
            labels[place] = []
        elif names:
            labels[place] = names[:1]
    return in_one_line(contradicted, "has different labels in a column for one, so none counts")


TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")


def read_sidecars(images: Sequence[Path], root: Path) -> tuple[list[tuple[str, ...]] | None, list[Skipped]]:
    """Captions of each image below `root`, one a line, and the files that are not UTF-8 text; None when no image has
    such a file. A file belongs to the images of exactly its name, else to those whose names have the same `name_key`.
    """
    files = _files_of(images)
    read: dict[Path, tuple[str, ...]] = {}
    skipped = []
    for path in sorted({path for path in files if path is not None}):
        try:
            # Not `splitlines`, which also ends lines at characters that a caption may hold, such as U+2028.
            read[path] = tuple(clean_texts(path.read_text(encoding="utf-8-sig").split("\n")))
        except UnicodeDecodeError:
            read[path] = ()
            skipped.append(Skipped(printable(path.relative_to(root).as_posix()), "is not UTF-8 text"))
    return [() if path is None else read[path] for path in files] if read else None, skipped


def _files_of(images: Sequence[Path]) -> list[Path | None]:
    """The text file of each image; None where it has none, or several none of which has exactly its name."""
    exact: dict[tuple[Path, str], list[int]] = defaultdict(list)
    alike: dict[tuple[Path, str], list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        exact[image.parent, image.stem].append(place)
        alike[image.parent, name_key(image.stem)].append(place)
    candidates: list[list[Path]] = [[] for _ in images]
    for folder in {image.parent for image in images}:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == ".txt" and path.is_file():
                for place in exact.get((folder, path.stem)) or alike.get((folder, name_key(path.stem)), []):
                    candidates[place].append(path)
    chosen: list[Path | None] = []
    for image, found in zip(images, candidates, strict=True):
        own = [path for path in found if path == image.with_suffix(".txt")] or found
        chosen.append(own[0] if len(own) == 1 else None)
    return chosen


def unread_text_files(directory: Path) -> str:
    """A remark on text files in a directory and its folders, for one in which no captions were found."""
    files = (path for pattern in ("*", "*/*") for path in directory.glob(pattern))
    names = sorted(path.relative_to(directory).as_posix() for path in files if path.suffix.lower() in TEXT_SUFFIXES)
    if not names:
        return ""
    more = f" and {number_of(len(names) - 3, 'more file')}" if len(names) > 3 else ""
    are = agree(len(names), "is", "are")
    return f"{', '.join(map(printable, names[:3]))}{more} {are} there, but in none of these layouts"
