"""Files that give captions to the images beside them: `NAME.txt`, `metadata.jsonl`, `captions.csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from opsin.data.images import Skipped
from opsin.errors import DataError

METADATA, CSV = "metadata.jsonl", "captions.csv"
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")


def read_captions(
    directories: Sequence[Path], images: Sequence[Path], *, sidecars: bool
) -> tuple[list[tuple[str, ...]] | None, list[Skipped]]:
    """Captions of each image, or None when there are none at all, and the rows of tables that name no image.

    They come from the tables in `directories`, which name images by paths relative to the table; without a table, and
    with `sidecars`, from text files with one caption a line. An image without a caption gets an empty tuple.
    Raises DataError for a table that cannot be read, or that names no image that is there.
    """
    tables = [path for directory in directories for name in (METADATA, CSV) if (path := directory / name).is_file()]
    if not tables:
        texts = [path.with_suffix(".txt") for path in images] if sidecars else []
        return ([_read_sidecar(path) for path in texts] if any(path.is_file() for path in texts) else None), []
    captions: dict[Path, list[str]] = {path: [] for path in images}
    skipped: list[Skipped] = []
    for table in tables:
        missing: dict[str, None] = {}
        known = False
        for file_name, texts_of_row in _rows(table):
            image = table.parent / file_name
            if image in captions:
                captions[image] += texts_of_row
                known = True
            else:
                missing[file_name] = None
        if missing and not known:
            examples = ", ".join(map(repr, list(missing)[:3]))
            raise DataError(
                f"{table} names no image that is there; for example {examples} "
                f"{'is' if len(missing) == 1 else 'are'} not in {table.parent}"
            )
        skipped += [Skipped(name, f"named in {table.name}, but no such image is there") for name in missing]
    return [tuple(captions[path]) for path in images], skipped


def _rows(table: Path) -> Iterator[tuple[str, list[str]]]:
    """File names with their captions."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 text") from error
    return _csv_rows(text, table) if table.name == CSV else _metadata_rows(text, table)


def _read_sidecar(path: Path) -> tuple[str, ...]:
    """One caption a line."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []
    return tuple(line.strip() for line in lines if line.strip())


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
    texts: Any = next((row[key] for key in ("captions", "caption", "text") if row.get(key) is not None), [])
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(problem)
    return row["file_name"], texts


def _csv_rows(text: str, table: Path) -> Iterator[tuple[str, list[str]]]:
    """One caption a row; the first row names the columns. A field may be quoted, and then hold commas and newlines."""
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        file_column = _column(header, FILE_COLUMNS, table)
        caption_column = _column(header, CAPTION_COLUMNS, table)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{table}, line {reader.line_num}: {len(row)} fields, and the first line names {len(header)}; "
                    "a caption with a comma in it must stand in double quotes"
                )
            caption = row[caption_column].strip()
            yield row[file_column].strip(), [caption] if caption else []
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}") from error


def _column(header: Sequence[str], names: Sequence[str], table: Path) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise DataError(f"{table} has no column {' or '.join(map(repr, names))}; its columns are {', '.join(header)}")
