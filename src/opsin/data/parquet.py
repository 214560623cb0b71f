"""Sources in parquet files, with columns as Hugging Face image datasets have them.

`image`: a struct of `bytes` and `path`, or plain bytes; `label`: integers, named by the file's own schema when it says
so, or strings; `captions`, `caption` or `text`: a string or a list of strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from opsin.data.images import open_image
from opsin.data.sources import ImageSource
from opsin.errors import DataError

IMAGE_COLUMNS, LABEL_COLUMNS, CAPTION_COLUMNS = (
    ("image", "img"),
    ("label", "labels", "fine_label"),
    ("captions", "caption", "text"),
)


def find_parquet(directory: Path) -> dict[str | None, list[Path]]:
    """The parquet files directly in a directory by split (`train.parquet`, `test-00000-of-00002.parquet`, …).

    Files whose names tell no split are under the key None. Empty when there are no parquet files.
    """
    found: dict[str | None, list[Path]] = {}
    for path in sorted(directory.glob("*.parquet")):
        start = path.stem.lower().split("-")[0].split(".")[0].split("_")[0]
        split = {
            "train": "train",
            "val": "val",
            "valid": "val",
            "validation": "val",
            "dev": "val",
            "test": "test",
        }.get(start)
        found.setdefault(split, []).append(path)
    return found


def parquet_source(
    files: Mapping[str | None, Sequence[Path]], name: str, class_names: tuple[str, ...] | None = None
) -> ImageSource:
    """One source from the files of each split; `class_names` names integer labels when the files do not.

    Raises DataError when a file is damaged, has no image column, or the files do not fit together.
    """
    tables, ids, splits = [], [], []
    for split, paths in files.items():
        for path in paths:
            table = _read(path)
            tables.append(table)
            splits += [split or "train"] * len(table)
            ids += [f"{path.stem}/{row:06d}" for row in range(len(table))]
    columns = set.intersection(*(set(table.column_names) for table in tables))
    image_column = _pick(columns, IMAGE_COLUMNS)
    if image_column is None:
        raise DataError(f"{name} has no column `image`; its columns are {', '.join(tables[0].column_names)}")
    encoded = _concatenate([table[image_column] for table in tables], name)
    if pa.types.is_struct(encoded.type):
        if "bytes" not in [field.name for field in encoded.type]:
            raise DataError(f"{name}: the column {image_column!r} has no field `bytes` with the encoded image")
        encoded = pc.struct_field(encoded, "bytes")
    if not (pa.types.is_binary(encoded.type) or pa.types.is_large_binary(encoded.type)):
        raise DataError(f"{name}: the column {image_column!r} holds {encoded.type}, not encoded images")

    def load(row: int) -> Image.Image:
        content = encoded[row].as_py()
        if content is None:
            raise DataError(f"{ids[row]} of {name} has no image")
        return open_image(content, name=f"{ids[row]} of {name}")

    label_column, caption_column = _pick(columns, LABEL_COLUMNS), _pick(columns, CAPTION_COLUMNS)
    labels, names = None, None
    if label_column is not None:
        values = _concatenate([table[label_column] for table in tables], name).to_pylist()
        labels, names = _labels(values, _names_in_schema(tables[0], label_column) or class_names, name)
    captions = None
    if caption_column is not None:
        captions = [_texts(value) for table in tables for value in table[caption_column].to_pylist()]
    return ImageSource(
        name=name,
        ids=ids,
        loader=load,
        rows=np.arange(len(ids)),
        labels=labels,
        class_names=names,
        captions=captions,
        splits=np.array(splits) if any(split is not None for split in files) else None,
    )


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error
    if len(table) == 0:
        raise DataError(f"{path} has no rows")
    return table


def _pick(columns: set[str], candidates: Sequence[str]) -> str | None:
    return next((column for column in candidates if column in columns), None)


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
    if any(value is None for value in values):
        raise DataError(f"{source}: row {values.index(None)} has no label")
    if all(isinstance(value, str) for value in values):
        names = tuple(sorted(set(values)))
        numbers = {label: index for index, label in enumerate(names)}
        return np.array([numbers[value] for value in values], dtype=np.int64), names
    if not all(isinstance(value, int) for value in values) or min(values) < 0:
        raise DataError(f"{source}: labels must be texts or whole numbers from 0")
    if names is None:
        names = tuple(str(index) for index in range(max(values) + 1))
    if max(values) >= len(names):
        raise DataError(f"{source}: a label is {max(values)}, and there are {len(names)} classes")
    return np.array(values, dtype=np.int64), names


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(text for text in value if text)
