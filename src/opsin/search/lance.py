"""Approximate search with LanceDB (extra `search`), for collections that are too large to compare with every vector.

LanceDB keeps an inverted file (k-means cells) of vectors on disk, with a bit for each number (RaBitQ: Gao and Long,
2024), and reads only the cells closest to a query. What it proposes is compared again with the stored vectors, so that
the cosines are exact; what may be lacking is a hit. Its table is a copy that is made when it is first needed, and can
be removed at any time.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from opsin.errors import CheckpointError, MissingExtraError
from opsin.files import write_json
from opsin.runtime import environment_default, is_offline
from opsin.search.snapshot import ExactIndex

TABLE = "vectors"
STATE = "rows-3.json"
"""Generation and number of the rows in the table. Its name changes with the table's layout, so that an older one is
made anew."""
ADDED_ROWS = 65536
"""At a time, as single precision."""
KEPT = timedelta(hours=1)
"""For how long older versions of the table stay on disk: other processes may be searching them."""
FEWEST_ROWS = 4096
"""Smaller tables get no cells: LanceDB compares with every vector then."""
ROWS_PER_CELL = 256
"""At least: LanceDB makes fewer cells otherwise."""
PROPOSALS = 20
"""Vectors that are compared again, for each hit that is asked for, and at least `FEWEST_PROPOSALS`."""
FEWEST_PROPOSALS = 500
PROBED_SHARE = 0.05
"""Of the cells that a search reads, and at least `FEWEST_PROBED`."""
FEWEST_PROBED = 20


class LanceIndex:
    """See `opsin.search.snapshot.VectorIndex`."""

    def __init__(self, path: Path, table: Any, exact: ExactIndex) -> None:
        self._path, self._table, self._exact = path, table, exact
        self._probed = max(FEWEST_PROBED, int(PROBED_SHARE * _cells(len(exact))))

    @classmethod
    def synchronized(cls, path: Path, generation: int, exact: ExactIndex) -> LanceIndex:
        """The table at `path` with the rows of the exact index, to which rows are added within a generation.

        Raises MissingExtraError without LanceDB, CheckpointError when the table cannot be read or written.
        """
        try:
            # It reads the level once, when it is imported, and logs to stderr otherwise.
            with environment_default("LANCEDB_LOG", "error"), _without_looking_for_ipv6():
                import lancedb
        except ImportError as error:
            raise MissingExtraError(
                "the backend lancedb needs LanceDB: pip install 'opsin[search]'; the exact search needs nothing"
            ) from error
        with _explained(path), FileLock(path.with_name(".lancedb.lock")):  # searches may run at once
            table = _synchronize(lancedb.connect(str(path)), path, generation, exact)
        return cls(path, table, exact)

    def __len__(self) -> int:
        return len(self._exact)

    def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.search`; a hit may be lacking, and then the next best takes its place."""
        k, dead = min(k, len(self)), self._exact.dead
        wanted = max(PROPOSALS * k, FEWEST_PROPOSALS) + min(len(dead), PROPOSALS * k)
        query = self._table.search(_padded(vector[None])[0]).distance_type("dot").nprobes(self._probed).limit(wanted)
        with _explained(self._path):
            proposed = query.select(["row", "_distance"]).to_arrow()["row"].to_numpy()
        rows = np.sort(proposed[~np.isin(proposed, dead) & (proposed < len(self._exact.vectors))])
        if len(rows) < k:  # a large part of the collection is asked for, or was deleted
            return self._exact.search(vector, k)
        return self._exact.best(rows, vector, k)


@contextmanager
def _without_looking_for_ipv6() -> Iterator[None]:
    """While offline, no socket is opened: urllib3, which LanceDB imports, would open one on ::1 to see if it can."""
    had_ipv6 = socket.has_ipv6
    socket.has_ipv6 = had_ipv6 and not is_offline()
    try:
        yield
    finally:
        socket.has_ipv6 = had_ipv6


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What LanceDB raises as CheckpointError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"LanceDB cannot use {path} ({reason}); remove it, or use exact") from error


def _synchronize(connection: Any, path: Path, generation: int, exact: ExactIndex) -> Any:
    """The table, with a row for each row of the vectors. Its state is on record only while the table is whole."""
    state, count = path / STATE, len(exact.vectors)
    present = _recorded_rows(state, generation)
    if 0 < count <= present:
        return connection.open_table(TABLE)
    state.unlink(missing_ok=True)
    if present:
        table = connection.open_table(TABLE)
    else:
        table = connection.create_table(TABLE, schema=_schema(_padded(exact.vectors[:1]).shape[1]), mode="overwrite")
    for start in range(present, count, ADDED_ROWS):
        table.add(_rows(start, exact.vectors[start : start + ADDED_ROWS]))
    # Before the index is made anew: hits were lost from one that existed when the rows were moved.
    table.optimize(cleanup_older_than=KEPT)
    if len(exact) >= FEWEST_ROWS:
        from lancedb.index import IvfRq

        config = IvfRq(distance_type="dot", num_partitions=_cells(len(exact)))
        table.create_index("vector", config=config, replace=True)
    write_json(state, [generation, count])
    return table


def _recorded_rows(state: Path, generation: int) -> int:
    """How many rows the table has; 0 without a readable record of this generation, so that it is made anew."""
    try:
        recorded, rows = json.loads(state.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return 0
    return rows if recorded == generation and type(rows) is int else 0


def _cells(count: int) -> int:
    return max(1, min(int(count**0.5), count // ROWS_PER_CELL))


def _schema(width: int) -> pa.Schema:
    vector = pa.list_(pa.float32(), width)  # from half precision, LanceDB builds its index several times as slowly
    return pa.schema([("row", pa.int64()), ("vector", vector)])


def _rows(start: int, vectors: np.ndarray) -> pa.Table:
    padded = _padded(vectors)
    count, width = padded.shape
    cells = pa.FixedSizeListArray.from_arrays(pa.array(padded.reshape(-1)), width)
    return pa.table([np.arange(start, start + count), cells], schema=_schema(width))


def _padded(vectors: np.ndarray) -> np.ndarray:
    """float32 (N, W) with zeros to a multiple of eight numbers, which RaBitQ needs; products stay what they are."""
    return np.pad(vectors.astype(np.float32), ((0, 0), (0, -vectors.shape[1] % 8)))
