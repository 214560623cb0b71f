"""Tables of images: delimited text (CSV, TSV) or JSON Lines, with labels, captions and splits in their columns.

The first line of delimited text names the columns, in any case. Commas, semicolons, tabs or bars are between them; a
field may be quoted, and then hold these and newlines. Text is UTF-8, or UTF-16 with a byte-order mark.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opsin.counts import number_of
from opsin.errors import DataError
from opsin.names import name_key, printable
from opsin.sources.image_source import SPLIT_NAMES, split_of_file

FILE_COLUMNS = (
    *("file_name", "filename", "file", "file_path", "filepath", "image", "image_name", "image_path", "image_file"),
    *("path", "img", "img_name", "img_path", "fname", "image_id", "img_id", "id_code", "id"),
)
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
SEVERAL_LABELS_COLUMNS = ("labels", "classes", "tags", "categories")
"""Of these a field may hold several labels, with bars, semicolons or commas between them."""
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
SPLIT_COLUMNS = ("split", "subset")
DELIMITERS = (",", ";", "\t", "|")
EXCEL_DELIMITER = re.compile(r"\Asep=.\n", re.IGNORECASE)
"""A first line that tells Excel the delimiter."""
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
TABLES = ("metadata", "captions", "labels")
"""What tables that are looked for in a folder are called, besides the names of splits."""


@dataclass(frozen=True)
class Row:
    """What a table says about one image; `split` is train, val or test where it says one of them, else its word."""

    file_name: str
    captions: list[str]
    labels: list[str]
    split: str | None


@dataclass(frozen=True)
class Table:
    """A table of images."""

    path: Path
    rows: list[Row]
    has_labels: bool
    has_captions: bool
    several: bool = False
    """Whether an image may have several labels: else more than one is a contradiction."""
    split: str | None = None
    """The split that the name of the table says."""

    @property
    def is_of_use(self) -> bool:
        """Whether it says anything about its images."""
        return self.has_labels or self.has_captions or self.split is not None or any(row.split for row in self.rows)

    @property
    def folders(self) -> list[Path]:
        """The folders beside a table of a split that are called as it is: `train` or `train_images` of `train.csv`."""
        if self.split is None:
            return []
        beside = sorted(path for path in self.path.parent.iterdir() if path.is_dir())
        return [path for path in beside if split_of_file(path.name) == self.split]


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


def find_tables(directory: Path) -> list[Path]:
    """The tables of images in a directory, by their names: `metadata`, `labels`, `captions`, and those of splits, each
    as CSV, TSV or JSON Lines; and `captions.txt`, where its first line names both columns, as in Flickr8k."""
    found = []
    for path in sorted(directory.iterdir()):
        suffix = path.suffix.lower()
        if suffix not in (*TABLE_SUFFIXES, ".txt"):
            continue
        stem = name_key(path.stem)
        is_table = suffix in TABLE_SUFFIXES and (stem in TABLES or stem in SPLIT_NAMES)
        if (is_table and path.is_file()) or ((stem, suffix) == ("captions", ".txt") and _is_flickr(path)):
            found.append(path)
    return sorted(found, key=lambda path: [*TABLES, *SPLIT_NAMES].index(name_key(path.stem)))


def _is_flickr(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        names = file.readline(1000).strip().split(",")
    return bool(caption_columns(names)) and _column(names, FILE_COLUMNS) is not None


def holds_labels_by_name(path: Path) -> bool:
    """Whether a table is called `labels` or as a split."""
    return name_key(path.stem) == "labels" or name_key(path.stem) in SPLIT_NAMES


def read_table(path: Path, *, named: bool = False) -> Table:
    """Read a table of images.

    Where a person has `named` this very file, and in `labels.csv` and tables of splits, the other one of two columns
    holds the labels, whatever it is called; and of columns that hold 0 and 1 each is a class. Raises DataError, saying
    where, for what is no such table.
    """
    text = read_text(path)
    split = SPLIT_NAMES.get(name_key(path.stem))
    if path.suffix.lower() == ".jsonl":
        return replace(_read_json_lines(text, path), split=split)
    needed = CAPTION_COLUMNS if name_key(path.stem) == "captions" else ()
    table = _Delimited(text, path).read(any_label=named or holds_labels_by_name(path), needed=needed)
    return replace(table, split=split)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark, with "\\n" at the ends of lines.

    Raises DataError for other encodings.
    """
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{printable(str(path))} is not UTF-8 text (its byte {error.start} is none); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(f"{printable(str(path))} is not UTF-8 text (it holds the byte zero); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_named(word: str) -> str | None:
    return SPLIT_NAMES.get(name_key(word), word.strip()) or None


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """The place of the first of these names in a header."""
    keys = [re.sub("[ -]", "_", name_key(name)) for name in header]
    return next((keys.index(name) for name in names if name in keys), None)


# ------------------------------------------------------------------------------------------------ delimited text


class _Delimited:
    """The lines of a table, after its first line."""

    def __init__(self, text: str, path: Path) -> None:
        if not text.strip():
            raise DataError(f"{path} is empty; its first line names the columns, as in file,label or file,caption")
        self.path = path
        text = EXCEL_DELIMITER.sub("", text.lstrip("\n"))
        line = next(line for line in text.split("\n") if line.strip())
        delimiter = next((sign for sign in DELIMITERS if _names_columns(line, sign)), ",")
        self._reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        self.header = next(self._fields())

    def _fields(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except csv.Error as error:
            reason = str(error).replace("unexpected end of data", "a double quote is opened and never closed")
            raise DataError(f"{self.path}, line {self._reader.line_num}: {reason}") from error

    def read(self, any_label: bool, needed: Sequence[str]) -> Table:
        """All rows. There must be one of the columns `needed`, if any; `any_label` is explained in `read_table`."""
        header = self.header
        file = _column(header, FILE_COLUMNS)
        captions = next(iter(caption_columns(header)), [])
        if file is None or (needed and not captions):
            raise self._no_column(FILE_COLUMNS if file is None else needed)
        split = _column(header, SPLIT_COLUMNS)
        label, several = _column(header, LABEL_COLUMNS), _column(header, SEVERAL_LABELS_COLUMNS)
        rows = list(self._rows())
        marks: list[int] = []
        if any_label and label is None and several is None and not captions:
            rest = [place for place in range(len(header)) if place not in (file, split)]
            if len(rest) == 1:
                label = rest[0]
            elif all(row[place].strip() in ("0", "1") for row in rows for place in rest):
                marks = rest

        def labels_of(row: list[str]) -> list[str]:
            if marks:
                return [header[place].strip() for place in marks if row[place].strip() == "1"]
            return _split_labels(row[several]) if label is None and several is not None else _one(row, label)

        def split_of(row: list[str]) -> str | None:
            return None if split is None else _split_named(row[split])

        return Table(
            self.path,
            [Row(row[file], clean_texts(row[at] for at in captions), labels_of(row), split_of(row)) for row in rows],
            has_labels=bool(marks) or label is not None or several is not None,
            has_captions=bool(captions),
            several=label is None,
        )

    def _rows(self) -> Iterator[list[str]]:
        for row in self._fields():
            if not any(field.strip() for field in row):
                continue
            if len(row) != len(self.header):
                raise DataError(
                    f"{self.path}, line {self._reader.line_num}: {number_of(len(row), 'field')}, and the first line "
                    f"names {len(self.header)}; a caption or label with the delimiter in it must stand in double quotes"
                )
            yield row

    def _no_column(self, names: Sequence[str]) -> DataError:
        return DataError(
            f"{self.path} has no column {' or '.join(map(repr, names[:5]))}; its columns are "
            f"{', '.join(printable(name.strip()) for name in self.header)}"
        )


def _names_columns(line: str, delimiter: str) -> bool:
    header = next(csv.reader([line], delimiter=delimiter), [])
    return len(header) > 1 and _column(header, FILE_COLUMNS) is not None


def _one(row: Sequence[str], column: int | None) -> list[str]:
    return [] if column is None else clean_texts([row[column]])


def _split_labels(text: str) -> list[str]:
    sign = next((sign for sign in ("|", ";", ",") if sign in text), None)
    return clean_texts(text.split(sign) if sign else [text])


# ---------------------------------------------------------------------------------------------------- JSON Lines


def _read_json_lines(text: str, path: Path) -> Table:
    # Not `splitlines`, which also ends lines at characters that a caption may hold, such as U+2028.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    read = [_json_row(line, f"{path}, line {number}") for number, line in lines]
    rows = [row for row, _ in read]
    return Table(
        path,
        rows,
        has_labels=any(row.labels for row in rows),
        has_captions=any(row.captions for row in rows),
        several=any(several for _, several in read),
    )


def _json_row(line: str, where: str) -> tuple[Row, bool]:
    """The row, and whether its labels are a list."""
    problem = f"{where}: expected a JSON object with `file_name` and a `text`, a `label`, or lists of them"
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(problem) from error
    names = [name for name in content if content[name] is not None] if isinstance(content, dict) else []
    file = _column(names, FILE_COLUMNS)
    if file is None or not isinstance(content[names[file]], str | int):
        raise DataError(problem)
    texts = [text for place in next(iter(caption_columns(names)), []) for text in _as_list(content[names[place]])]
    column = _column(names, (*LABEL_COLUMNS, *SEVERAL_LABELS_COLUMNS))
    labels = [] if column is None else _as_list(content[names[column]])
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(label, str | int) for label in labels):
        raise DataError(problem)
    split = _column(names, SPLIT_COLUMNS)
    row = Row(
        str(content[names[file]]),
        clean_texts(texts),
        clean_texts(map(str, labels)),
        None if split is None else _split_named(str(content[names[split]])),
    )
    return row, column is not None and isinstance(content[names[column]], list)


def _as_list(value: Any) -> list[Any]:
    """The values of a list, or the one value, without missing ones (null, NaN), for which pandas writes 1.0 for 1."""
    values = value if isinstance(value, list) else [value]
    present = [entry for entry in values if entry is not None and entry == entry]
    return [int(entry) if isinstance(entry, float) and entry.is_integer() else entry for entry in present]
