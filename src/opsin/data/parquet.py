"""Sources in parquet files, with columns as Hugging Face image datasets have them.

`image`: a struct of `bytes` and `path`, or plain bytes; `label`: whole numbers, named by the file's own schema
when it says so, or strings; `captions`, `caption`, `text` or `title`, also several with numbers (`caption_2`): a string
or a list of strings. Other columns are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from opsin.data.caption_tables import caption_columns, clean_texts
from opsin.data.image_source import ImageSource, split_of_file, without_split
from opsin.data.images import Skipped, open_image
from opsin.errors import DataError

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")


def find_parquet(directory: Path) -> dict[str | None, list[Path]]:
    """The parquet files directly in a directory by split (`train.parquet`, `test-00000-of-00002.parquet`, …).

    Files whose names tell no split are under the key None. Empty when there are no parquet files.
    """
    found: dict[str | None, list[Path]] = {}
    for path in sorted(directory.glob("*")):
        if path.suffix.lower() == ".parquet" and not path.name.startswith("."):
            found.setdefault(split_of_file(path.stem), []).append(path)
    return found


def parquet_source(
    files: Mapping[str | None, Sequence[Path]], name: str, class_names: tuple[str, ...] | None = None
) -> ImageSource:
    """One source from the files of each split; `class_names` names integer labels when the files do not.

    Files without a split are left out where others have one, and so are, where some rows have a label, those without
    (null, NaN or -1); both are listed. Raises DataError when a file is damaged, has no image column, or the files do
    not fit together.
    """
    skipped = without_split({path: split for split, paths in files.items() for path in paths})
    tables, ids, splits = [], [], []
    for split, paths in files.items():
        for path in paths if split or not skipped else ():
            table = _read(path)
            tables.append(table)
            splits += [split or "train"] * len(table)
            ids += [f"{path.stem}/{row:06d}" for row in range(len(table))]
    encoded = _encoded_images(tables, name)

    label_column = _pick(tables, LABEL_COLUMNS, _holds_labels)
    names_of_all = list(dict.fromkeys(name for table in tables for name in table.column_names))
    families = [[names_of_all[place] for place in places] for places in caption_columns(names_of_all)]
    of_captions = next((usable for names in families if (usable := _usable(tables, names, _holds_texts))), [])
    values = [] if label_column is None else _without_gaps(_values(tables, label_column))
    labelled = np.array([value is not None and value != -1 for value in values], dtype=bool)
    labels, names = None, None
    if label_column is not None and labelled.any():
        named = _class_names(tables, label_column, name) or class_names
        labels = np.full(len(ids), -1, dtype=np.int64)
        labels[labelled], names = _labels([value for value in values if value not in (None, -1)], named, name)
    source = ImageSource(
        name=name,
        ids=ids,
        loader=partial(_load, encoded, ids, name),
        rows=np.arange(len(ids)),
        labels=labels,
        class_names=names,
        captions=_captions(tables, of_captions),
        seen_instead_of_captions=partial(_name_columns, next(path for paths in files.values() for path in paths)),
        splits=np.array(splits) if any(split is not None for split in files) else None,
        skipped=skipped,
    )
    if labels is None or labelled.all():
        return source
    left_out = [Skipped(ids[row], "has no label") for row in np.flatnonzero(~labelled)]
    return replace(source.select(labelled), skipped=[*skipped, *left_out])


def _class_names(tables: Sequence[pa.Table], column: str, source: str) -> tuple[str, ...] | None:
    """The names of classes in the schemas; DataError where they differ, since then a number means two things."""
    found = dict.fromkeys(names for table in tables if (names := _names_in_schema(table, column)))
    if len(found) > 1:
        first, second = (", ".join(names[:5]) for names in list(found)[:2])
        raise DataError(f"the parquet files of {source} name their classes differently: {first}; and {second}")
    return next(iter(found), None)


def _load(encoded: pa.ChunkedArray, ids: Sequence[str], name: str, row: int) -> Image.Image:
    content = encoded[row].as_py()
    if content is None:
        raise DataError(f"{ids[row]} of {name} has no image")
    return open_image(content, name=f"{ids[row]} of {name}")


def _read(path: Path) -> pa.Table:
    try:
        columns = pq.read_schema(path).names
        others = (*IMAGE_COLUMNS, *LABEL_COLUMNS)
        known = [column for column in columns if column in others or caption_columns([column])]
        table = pq.read_table(path, columns=known)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error
    if not set(IMAGE_COLUMNS) & set(columns):
        raise DataError(f"{path} has no column `image`; its columns are {', '.join(columns)}")
    if len(table) == 0:
        raise DataError(f"{path} has no rows")
    return table


def _encoded_images(tables: Sequence[pa.Table], name: str) -> pa.ChunkedArray:
    """The column of encoded images, of all tables in one."""
    columns = [table[next(column for column in IMAGE_COLUMNS if column in table.column_names)] for table in tables]
    encoded = _concatenate(columns, name)
    if pa.types.is_struct(encoded.type):
        if "bytes" not in [field.name for field in encoded.type]:
            raise DataError(f"{name}: its images have no field `bytes` with the encoded image")
        encoded = pc.struct_field(encoded, "bytes")
    if not (pa.types.is_binary(encoded.type) or pa.types.is_large_binary(encoded.type)):
        raise DataError(f"{name}: its column of images holds {encoded.type}, not encoded images")
    return encoded


def _pick(tables: Sequence[pa.Table], candidates: Sequence[str], usable: Callable[[pa.DataType], bool]) -> str | None:
    """The first candidate that at least one table has, with a usable type wherever it is."""
    return next(iter(_usable(tables, candidates, usable)), None)


def _usable(tables: Sequence[pa.Table], candidates: Sequence[str], usable: Callable[[pa.DataType], bool]) -> list[str]:
    """The candidates that at least one table has, with a usable type wherever they are."""
    types = {
        column: [table.schema.field(column).type for table in tables if column in table.column_names]
        for column in candidates
    }
    return [column for column in candidates if types[column] and all(map(usable, types[column]))]


def _holds_labels(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    tests = (*numbers, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    return any(test(kind) for test in tests)


def _without_gaps(values: list[Any]) -> list[Any]:
    """Whole numbers where pandas made floats of them because some are missing, which are NaN then. Floats with a
    fraction are no labels, and so is then none of them."""
    found = [None if value != value else value for value in values]
    if any(isinstance(value, float) and not value.is_integer() for value in found):
        return [None] * len(found)
    return [int(value) if isinstance(value, float) else value for value in found]


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))


def _values(tables: Sequence[pa.Table], column: str) -> list[Any]:
    """A column of all tables as Python values; None in the rows of a table that lacks it."""
    return [
        value
        for table in tables
        for value in (table[column].to_pylist() if column in table.column_names else [None] * len(table))
    ]


def _concatenate(parts: list[pa.ChunkedArray], name: str) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    except (pa.ArrowInvalid, TypeError) as error:
        raise DataError(f"the parquet files of {name} have columns of different types") from error


def _names_in_schema(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """Class names that `datasets` writes into the schema's metadata."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _labels(values: list[Any], names: tuple[str, ...] | None, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if all(isinstance(value, str) for value in values):
        names = tuple(sorted(set(values)))
        numbers = {label: index for index, label in enumerate(names)}
        return np.array([numbers[value] for value in values], dtype=np.int64), names
    if not all(isinstance(value, int) for value in values) or min(values) < 0:
        raise DataError(f"{source}: labels must be texts or whole numbers from 0")
    if names is None:  # only numbers that occur: they may be ids of any size
        present = sorted({int(value) for value in values})
        places = {value: index for index, value in enumerate(present)}
        return np.array([places[value] for value in values], dtype=np.int64), tuple(map(str, present))
    if max(values) >= len(names):
        raise DataError(f"{source}: a label is {max(values)}, and there are {len(names)} classes")
    return np.array(values, dtype=np.int64), names


def _captions(tables: Sequence[pa.Table], columns: Sequence[str]) -> list[tuple[str, ...]] | None:
    """The texts of all these columns in each row; None without a column."""
    values = [_values(tables, column) for column in columns]
    return [tuple(text for value in row for text in _texts(value)) for row in zip(*values, strict=True)] or None


def _name_columns(path: Path) -> str:
    return f"The columns of {path.name} are {', '.join(pq.read_schema(path).names)}"


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(clean_texts([value] if isinstance(value, str) else [text for text in value if text is not None]))
