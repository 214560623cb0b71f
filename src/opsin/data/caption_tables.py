"""Files that give captions to the images beside them: `NAME.txt`, `metadata.jsonl`, `captions.csv`, `captions.txt`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from opsin.data.images import Skipped
from opsin.errors import DataError

METADATA, CSV, CSV_OF_FLICKR = "metadata.jsonl", "captions.csv", "captions.txt"
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl")


def caption_columns(names: Sequence[str]) -> list[list[int]]:
    """The places of columns with captions, for each of `CAPTION_COLUMNS` that is there: of one of that name, in upper
    or lower case, and of those that have a number besides (`caption_2`), in order of the numbers."""
    found = []
    for wanted in CAPTION_COLUMNS:
        matches = [re.fullmatch(rf"{wanted}[ _-]?(\d*)", name.strip(), re.IGNORECASE) for name in names]
        numbers = {place: int(match[1] or 0) for place, match in enumerate(matches) if match}
        if numbers:
            found.append(sorted(numbers, key=lambda place: numbers[place]))
    return found


def clean_texts(texts: Iterable[str]) -> list[str]:
    """Captions without the blanks around them, and without those that are nothing else."""
    return [stripped for text in texts if (stripped := text.strip())]


def read_captions(
    directories: Sequence[Path], images: Sequence[Path]
) -> tuple[list[tuple[str, ...]] | None, list[Skipped]]:
    """Captions of each image, or None when there are none at all, and what could not be used: rows of tables that name
    no image, and text files that are not UTF-8.

    They come from the tables in `directories`, which name images by absolute paths, by paths relative to the table, or
    by bare names that one image below it has; without a table, from text files of the images' own names, with one
    caption a line. An image without a caption gets an empty tuple. All images are below the first directory.
    Raises DataError for a table that cannot be read, or that names no image that is there.
    """
    tables = [table for directory in directories for table in _tables(directory)]
    if not tables:
        return _read_sidecars(images, directories[0])
    images_of = _ImagesByName(images)
    captions: list[list[str]] = [[] for _ in images]
    skipped: list[Skipped] = []
    for table in tables:
        missing: dict[str, None] = {}
        known = False
        for file_name, texts_of_row in _rows(table):
            place = images_of.find(file_name, table.parent)
            if place is None:
                missing[file_name] = None
            else:
                captions[place] += texts_of_row
                known = True
        if missing and not known:
            examples = ", ".join(map(repr, list(missing)[:3]))
            raise DataError(
                f"{table} names no image that is there; for example {examples} "
                f"{'is' if len(missing) == 1 else 'are'} not in {table.parent}"
            )
        skipped += [Skipped(name, f"named in {table.name}, but no such image is there") for name in missing]
    return [tuple(texts) for texts in captions], skipped


def unread_text_files(directory: Path) -> str:
    """A remark on text files in a directory and its folders, for one in which no captions were found."""
    files = (path for pattern in ("*", "*/*") for path in directory.glob(pattern))
    names = sorted(path.relative_to(directory).as_posix() for path in files if path.suffix.lower() in TEXT_SUFFIXES)
    if not names:
        return ""
    more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} are there, but in none of these layouts"


class _ImagesByName:
    """Finds the images that a table names. An accented letter is one character in some files and two in others, which
    macOS writes, so names are compared in one form (NFC)."""

    def __init__(self, images: Sequence[Path]) -> None:
        self._images = images
        self._by_path = {_nfc(os.path.abspath(path)): place for place, path in enumerate(images)}

    @cached_property
    def _by_real_path(self) -> dict[str, int]:
        return {_nfc(os.path.realpath(path)): place for place, path in enumerate(self._images)}

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for place, path in enumerate(self._images):
            places.setdefault(_nfc(path.name), []).append(place)
        return places

    def find(self, file_name: str, folder: Path) -> int | None:
        """The place of the image that a table in `folder` calls so, or so but for blanks around the name."""
        place = self._find(file_name, folder)
        return self._find(file_name.strip(), folder) if place is None else place

    def _find(self, file_name: str, folder: Path) -> int | None:
        path = os.path.join(folder, file_name)
        if (place := self._by_path.get(_nfc(os.path.abspath(path)))) is not None:
            return place
        if os.path.isabs(file_name):  # it may lead here through a link
            return self._by_real_path.get(_nfc(os.path.realpath(path)))
        same = [place for place in self._by_name.get(_nfc(file_name), ()) if self._images[place].is_relative_to(folder)]
        return same[0] if len(same) == 1 else None


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _tables(directory: Path) -> list[Path]:
    """The tables in a directory. `captions.txt` is one only where its first line names both columns, as in Flickr8k."""
    present = [path for name in (METADATA, CSV, CSV_OF_FLICKR) if (path := directory / name).is_file()]
    return [path for path in present if path.name != CSV_OF_FLICKR or _has_header(path)]


def _has_header(path: Path) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        names = file.readline(1000).lower().strip().split(",")
    return bool(caption_columns(names)) and any(name.strip() in FILE_COLUMNS for name in names)


def _rows(table: Path) -> Iterator[tuple[str, list[str]]]:
    """File names with their captions."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 text") from error
    return _metadata_rows(text, table) if table.name == METADATA else _csv_rows(text, table)


def _read_sidecars(images: Sequence[Path], root: Path) -> tuple[list[tuple[str, ...]] | None, list[Skipped]]:
    """One caption a line; None when no image has such a file."""
    present = {path for folder in {image.parent for image in images} for path in folder.glob("*.txt")}
    if not present:
        return None, []
    captions: dict[Path, tuple[str, ...]] = {}
    skipped = []
    for path in sorted(present & {image.with_suffix(".txt") for image in images}):
        try:
            # Not `splitlines`, which also ends lines at characters that a caption may hold, such as U+2028.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            lines = []
            skipped.append(Skipped(path.relative_to(root).as_posix(), "is not UTF-8 text"))
        captions[path] = tuple(line.strip() for line in lines if line.strip())
    return [captions.get(image.with_suffix(".txt"), ()) for image in images] if captions else None, skipped


def _metadata_rows(text: str, table: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _metadata_row(line, f"{table}, line {number}")


def _metadata_row(line: str, where: str) -> tuple[str, list[str]]:
    problem = f"{where}: expected a JSON object with `file_name` and a `text`, or a list of them in `captions`"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(problem) from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise DataError(problem)
    present = [key for key in row if row[key] is not None]
    values: list[Any] = [row[present[place]] for place in next(iter(caption_columns(present)), [])]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(problem)
    return row["file_name"], clean_texts(texts)


def _csv_rows(text: str, table: Path) -> Iterator[tuple[str, list[str]]]:
    """One image a row; the first row names the columns. A field may be quoted, and then hold commas and newlines."""
    if not text.strip():
        raise DataError(f"{table} is empty; its first line names the columns, as in file,caption")
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        lowered = [name.lower() for name in header]
        file_column = next((lowered.index(name) for name in FILE_COLUMNS if name in lowered), None)
        of_captions = next(iter(caption_columns(header)), None)
        if file_column is None or of_captions is None:
            raise _no_column(header, FILE_COLUMNS if file_column is None else CAPTION_COLUMNS, table)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{table}, line {reader.line_num}: {len(row)} fields, and the first line names {len(header)}; "
                    "a caption with a comma in it must stand in double quotes"
                )
            yield row[file_column], clean_texts(row[column] for column in of_captions)
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}") from error


def _no_column(header: Sequence[str], names: Iterable[str], table: Path) -> DataError:
    hint = ". Put commas between the columns" if len(header) == 1 and re.search(r"[;|\t]", header[0]) else ""
    return DataError(
        f"{table} has no column {' or '.join(map(repr, names))}; its columns are {', '.join(header)}{hint}"
    )
