"""Parquet files: which ones belong to a directory, and reading them within bounds of memory.

A small file can unpack to any size, by compression or because a value that repeats is stored once. So sizes and counts
in a file's metadata are checked before its columns are read, texts and images that repeat stay stored once, and images
are read one row group at a time.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from opsin.errors import DataError
from opsin.names import printable
from opsin.sources.image_source import SPLIT_NAMES, split_of_file
from opsin.sources.listing import Listing, find_images

IMAGE_COLUMNS = ("image", "img")
SUFFIX = ".parquet"
CACHED_BYTES = 2**30
"""Row groups of images that are kept in memory, besides the one that was read last."""
MOST_EXPANSION, ALWAYS_ALLOWED = 50, 2**28
"""A column may unpack to this many times its size in the file, and to so many bytes in any case."""
FEWEST_BYTES_PER_ROW, ROWS_ALWAYS_ALLOWED = 16, 1_000_000
"""No row with an image takes fewer bytes in the file; beyond so many rows such a file is refused."""
MOST_VALUES_PER_ROW = 16
"""Of a list, on average, beyond as many values as there may be rows in any case."""


def find_parquet(directory: Path) -> dict[str | None, list[Path]]:
    """The parquet files of a directory by split, `train`, `val`, `test`, or None where a name tells no split.

    They lie directly in the directory, else as in a dataset repository of the Hugging Face Hub: in `data`, in folders
    of splits, or in the folder of one configuration. The first word of a file's name tells its split
    (`test-00000-of-00002.parquet`), else its folder's name. Empty when there are none, or when the directory holds more
    images than such files below it have rows. Raises DataError when there are several configurations.
    """
    files = [path for path in sorted(directory.glob("*")) if _is_parquet(path)] or _nested(directory)
    found: dict[str | None, list[Path]] = {}
    for path in files:
        found.setdefault(_split(path.relative_to(directory)), []).append(path)
    return found


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX and not path.name.startswith(".") and path.is_file()


def _split(path: Path) -> str | None:
    folders = (SPLIT_NAMES.get(part.lower()) for part in reversed(path.parts[:-1]))
    return split_of_file(path.stem) or next((split for split in folders if split), None)


def _nested(directory: Path) -> list[Path]:
    files = sorted(directory / file.id for file in Listing(directory, (SUFFIX,)).files())
    configurations: dict[tuple[str, ...], list[Path]] = {}
    for path in files:
        parts = path.relative_to(directory).parts[:-1]
        key = tuple(part for part in parts if part != "data" and part.lower() not in SPLIT_NAMES)
        configurations.setdefault(key, []).append(path)
    if not files or len(find_images(directory)) > sum(map(_row_count, files)):
        return []
    if len(configurations) > 1:
        folders = [paths[0].relative_to(directory).parent.as_posix() for paths in configurations.values()]
        raise DataError(
            f"{directory} holds several configurations of a dataset, in {', '.join(map(printable, folders))}; name "
            f"one of these folders as the source, such as {directory / folders[-1]}"
        )
    return files


def _row_count(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):  # reading it says what is wrong
        return 1


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file; its texts and images will come as dictionaries, of which each value is stored once.

    Raises DataError for what is no parquet file.
    """
    try:
        schema = pq.read_metadata(path).schema
        leaves = map(schema.column, range(len(schema)))
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        return pq.ParquetFile(path, read_dictionary=texts)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> DataError:
    """The error for a file that cannot be read."""
    reason = str(error).splitlines() or [type(error).__name__]
    return DataError(f"{path} is not a readable parquet file: {reason[0]}")


def refuse_bomb(path: Path, metadata: pq.FileMetaData, columns: Sequence[str]) -> None:
    """Raise DataError where these columns unpack to far more than they take in the file."""
    size = path.stat().st_size
    most_rows = max(ROWS_ALWAYS_ALLOWED, size // FEWEST_BYTES_PER_ROW)
    if metadata.num_rows > most_rows:
        raise DataError(
            f"{path} was refused: it has {metadata.num_rows:,} rows in {size:,} bytes, too few for images in them"
        )
    packed: dict[str, int] = {}
    unpacked: dict[str, int] = {}
    values: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            name = chunk.path_in_schema
            packed[name] = packed.get(name, 0) + chunk.total_compressed_size
            unpacked[name] = unpacked.get(name, 0) + chunk.total_uncompressed_size
            values[name] = values.get(name, 0) + chunk.num_values
    for name, count in unpacked.items():
        if name.split(".")[0] not in columns:
            continue
        if count > max(ALWAYS_ALLOWED, MOST_EXPANSION * packed[name]):
            raise DataError(
                f"{path} was refused: its column {printable(name)!r} unpacks from {packed[name]:,} to {count:,} bytes"
            )
        if values[name] > MOST_VALUES_PER_ROW * most_rows:
            raise DataError(f"{path} was refused: its column {printable(name)!r} has {values[name]:,} values")


class EncodedImages:
    """The encoded images of several files in one row of numbers, read by row group when they are asked for.

    What was read last is kept, up to `CACHED_BYTES`. Can be used by several threads, and be pickled.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """The files are checked, and nothing is read. Raises DataError for a file without a column of images."""
        self.paths = list(paths)
        self.columns = [_image_column(path) for path in self.paths]
        self.groups: list[tuple[int, int]] = []
        """The file and its row group, of each row group of all files."""
        starts = [0]
        for number, (path, column) in enumerate(zip(self.paths, self.columns, strict=True)):
            metadata = pq.read_metadata(path)
            refuse_bomb(path, metadata, (column,))
            for group in range(metadata.num_row_groups):
                self.groups.append((number, group))
                starts.append(starts[-1] + metadata.row_group(group).num_rows)
        self.starts = np.array(starts)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("paths", "columns", "groups", "starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> bytes | None:
        """The encoded image of a row; None where it has none. Raises DataError when the file cannot be read."""
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        content: bytes | None = self._group(group)[row - int(self.starts[group])].as_py()
        return content

    def _group(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            if group not in self._kept:
                self._kept[group] = self._read(group)
                while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > CACHED_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]

    def _read(self, group: int) -> pa.ChunkedArray:
        number, group_of_file = self.groups[group]
        path, name = self.paths[number], self.columns[number]
        try:
            with open_parquet(path) as file:
                leaf = f"{name}.bytes" if pa.types.is_struct(file.schema_arrow.field(name).type) else name
                column = file.read_row_group(group_of_file, columns=[leaf], use_threads=False)[name]
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from error
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _image_column(path: Path) -> str:
    """The column of images. Raises DataError when there is none, or when it holds no encoded images."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    if twice := [column for column, count in Counter(schema.names).items() if count > 1]:
        raise DataError(f"{path} has two columns {printable(twice[0])!r}; rename one of them")
    name = next((column for column in IMAGE_COLUMNS if column in schema.names), None)
    if name is None:
        raise DataError(f"{path} has no column `image`; its columns are {', '.join(map(printable, schema.names))}")
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        if "bytes" not in [field.name for field in kind]:
            raise DataError(f"{path}: its images have no field `bytes` with the encoded image")
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{path}: its column of images holds {kind}, not encoded images")
    return name
