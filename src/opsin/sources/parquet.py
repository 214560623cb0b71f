"""Sources in parquet files, with columns as Hugging Face image datasets have them.

`image`: a struct of `bytes` and `path`, or plain bytes; `label`: whole numbers, named by the file's own schema when it
says so, or strings, or lists of either; `captions`, `caption`, `text` or `title`, also several with numbers
(`caption_2`): a string or a list of strings. Other columns are not read.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from opsin.counts import agree, number_of
from opsin.errors import DataError
from opsin.names import printable
from opsin.sources.image_source import UNLABELLED, ImageSource, label_fields, number_labels, without_split
from opsin.sources.parquet_files import EncodedImages, damaged, open_parquet, refuse_bomb
from opsin.sources.tables import caption_columns, clean_texts

LABEL_COLUMNS = ("label", "labels", "fine_label")


def parquet_source(
    files: Mapping[str | None, Sequence[Path]], name: str, class_names: tuple[str, ...] | None = None
) -> ImageSource:
    """One source from the files of each split; `class_names` names integer labels when the files do not.

    Files without a split are left out where others have one, and listed. Rows whose label is null, NaN or -1 have none;
    lists of labels become `label_sets` where one has several. Raises DataError when a file is damaged, has no image
    column, or unpacks to far more than it takes, and when the files do not fit together.
    """
    skipped = without_split({path: split for split, paths in files.items() for path in paths})
    used = [(path, split) for split, paths in files.items() for path in paths if split or not skipped]
    root = os.path.commonpath([path.parent for path, _ in used])
    images = EncodedImages([path for path, _ in used])
    tables, ids, splits = [], [], []
    for path, split in used:
        table = _read(path)
        tables.append(table)
        splits += [split or "train"] * len(table)
        stem = Path(os.path.relpath(path, root)).with_suffix("").as_posix()
        ids += [f"{printable(stem)}/{row:06d}" for row in range(len(table))]

    names_of_all = list(dict.fromkeys(name for table in tables for name in table.column_names))
    families = [[names_of_all[place] for place in places] for places in caption_columns(names_of_all)]
    of_captions = next((usable for names in families if (usable := _usable(tables, names, _holds_texts))), [])
    column = next(iter(_usable(tables, LABEL_COLUMNS, _holds_labels)), None)
    return ImageSource(
        name=name,
        ids=ids,
        loader=partial(_load, images, ids, name),
        rows=np.arange(len(ids)),
        **(_label_fields(tables, column, name, class_names) if column else {}),
        captions=_captions(tables, of_captions),
        seen_instead_of_captions=partial(_name_columns, used[0][0]),
        splits=np.array(splits) if any(split is not None for split in files) else None,
        skipped=skipped,
    )


def _class_names(tables: Sequence[pa.Table], column: str, source: str) -> tuple[str, ...] | None:
    """The names of classes in the schemas; DataError where they differ, since then a number means two things."""
    found = dict.fromkeys(names for table in tables if (names := _names_in_schema(table, column)))
    if len(found) > 1:
        first, second = (", ".join(names[:5]) for names in list(found)[:2])
        raise DataError(f"the parquet files of {source} name their classes differently: {first}; and {second}")
    return next(iter(found), None)


def _load(images: EncodedImages, ids: Sequence[str], name: str, row: int) -> bytes:
    content = images[row]
    if content is None:
        raise DataError(f"{ids[row]} of {name} has no image")
    return content


def _read(path: Path) -> pa.Table:
    """The columns of labels and captions; of a text that occurs often there is one copy."""
    with open_parquet(path) as file:
        columns = file.schema_arrow.names
        known = [column for column in columns if column in LABEL_COLUMNS or caption_columns([column])]
        refuse_bomb(path, file.metadata, known)
        if file.metadata.num_rows == 0:
            raise DataError(f"{path} has no rows")
        try:
            return file.read(columns=known)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error


def _usable(tables: Sequence[pa.Table], candidates: Sequence[str], usable: Callable[[pa.DataType], bool]) -> list[str]:
    """The candidates that at least one table has, with a usable type wherever they are."""
    types = {
        column: [table.schema.field(column).type for table in tables if column in table.column_names]
        for column in candidates
    }
    return [column for column in candidates if types[column] and all(map(usable, types[column]))]


def _holds_labels(kind: pa.DataType) -> bool:
    kind = _kind_of_value(kind)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return _holds_texts(kind) or any(test(kind) for test in numbers)


def _holds_texts(kind: pa.DataType) -> bool:
    kind = _kind_of_value(kind)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))


def _kind_of_value(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column, in a list or not, each written out or given by its place in a dictionary."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _values(tables: Sequence[pa.Table], column: str) -> list[list[Any]]:
    """A column of all tables: the values of each row, without those that are missing (null, NaN)."""
    rows: list[list[Any]] = []
    for table in tables:
        if column not in table.column_names:
            rows += [[] for _ in range(len(table))]
            continue
        for chunk in table[column].chunks:
            rows += [[value for value in row if value is not None and value == value] for row in _rows(chunk)]
    return rows


def _rows(chunk: pa.Array) -> Iterator[list[Any]]:
    if not (pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type)):
        yield from ([value] for value in _shared(chunk))
        return
    values, start = _shared(chunk.flatten()), 0
    for length in pc.fill_null(pc.list_value_length(chunk), 0).to_pylist():
        yield values[start : start + length]
        start += length


def _shared(array: pa.Array) -> list[Any]:
    """Python values, of which those that are equal in a dictionary are one object; texts without blanks around them."""
    if not pa.types.is_dictionary(array.type):
        return list(array.to_pylist())
    values = [value.strip() if isinstance(value, str) else value for value in array.dictionary.to_pylist()]
    return [None if place is None else values[place] for place in array.indices.to_pylist()]


def _names_in_schema(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """Class names that `datasets` writes into the schema's metadata, fit to print; None for anything else there."""
    try:
        feature = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature.get("feature", feature)["names"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(map(printable, names))


def _label_fields(
    tables: Sequence[pa.Table], column: str, source: str, class_names: tuple[str, ...] | None
) -> dict[str, Any]:
    """The labels of a column as fields of an ImageSource; -1 and a blank are none, and numbers with a fraction are no
    labels."""
    rows = [[value for value in row if value not in (UNLABELLED, "")] for row in _values(tables, column)]
    flat = [value for row in rows for value in row]
    # Of whole numbers pandas makes floats where some are missing.
    if any(isinstance(value, float) and not value.is_integer() for value in flat):
        return {}
    if all(isinstance(value, str) for value in flat):
        return label_fields(*number_labels(rows))
    if not all(isinstance(value, int | float) for value in flat) or min(flat) < 0:
        raise DataError(f"{source}: labels must be texts or whole numbers from 0")
    names = _class_names(tables, column, source) or class_names
    if names is None:  # only numbers that occur: they may be ids of any size
        present = {value: place for place, value in enumerate(sorted({int(value) for value in flat}))}
        return label_fields(_sets([[present[int(value)] for value in row] for row in rows]), tuple(map(str, present)))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{source}: two of its classes are called {twice[0]!r}; rename one of them in the schema")
    if max(flat) >= len(names):
        raise DataError(
            f"{source}: a label is {int(max(flat))}, and there {agree(len(names), 'is', 'are')} "
            f"{number_of(len(names), 'class', 'classes')}"
        )
    return label_fields(_sets(rows), names)


def _sets(rows: list[list[Any]]) -> list[tuple[int, ...]]:
    return [tuple(sorted({int(value) for value in row})) for row in rows]


def _captions(tables: Sequence[pa.Table], columns: Sequence[str]) -> list[tuple[str, ...]] | None:
    """The texts of all these columns in each row; None without a column."""
    values = [_values(tables, column) for column in columns]
    return [tuple(text for row in rows for text in clean_texts(row)) for rows in zip(*values, strict=True)] or None


def _name_columns(path: Path) -> str:
    return f"The columns of {path.name} are {', '.join(pq.read_schema(path).names)}"
