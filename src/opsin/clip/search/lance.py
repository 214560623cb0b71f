"""Approximate search with LanceDB (extra `search`), for collections that are too large to compare with every vector.

LanceDB keeps an inverted file (k-means cells) of product-quantised vectors on disk and reads only a few cells. What it
proposes is compared again with the stored vectors, so that the cosines are exact; what may be lacking is a hit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from opsin.checkpoint import write_json
from opsin.clip.search.exact import ExactIndex
from opsin.errors import MissingExtraError

TABLE = "vectors"
FEWEST_ROWS = 4096
"""Smaller tables get no cells: LanceDB compares with every vector then."""
PROPOSALS = 10
"""Vectors that are compared again, for each hit that is asked for."""
PROBED_CELLS = 32


class LanceIndex:
    """See `opsin.clip.search.exact.VectorIndex`; positions are those of the exact index beside it."""

    def __init__(self, table: Any, first: Mapping[int, int], dead: np.ndarray, exact: ExactIndex) -> None:
        self._table, self._first, self._dead, self._exact = table, first, dead, exact

    @classmethod
    def synchronised(
        cls, path: Path, shards: Mapping[int, int], arrays: Sequence[np.ndarray], dead: np.ndarray, exact: ExactIndex
    ) -> LanceIndex:
        """The table at `path` with the rows of these shards: new shards are added, those that are gone removed.

        Raises MissingExtraError without LanceDB.
        """
        try:
            import lancedb
        except ImportError as error:
            raise MissingExtraError(
                "the backend lancedb needs LanceDB: pip install 'opsin[search]'; the exact search needs nothing"
            ) from error
        state = path.with_name("lancedb.json")
        present = set(json.loads(state.read_text())) if state.is_file() else set()
        connection = lancedb.connect(str(path))
        width = arrays[0].shape[1] if arrays else 0
        if not present or TABLE not in connection.table_names():
            present = set()
            table = connection.create_table(TABLE, schema=_schema(width), mode="overwrite")
        else:
            table = connection.open_table(TABLE)
        new = [number for number in shards if number not in present]
        gone = sorted(present - set(shards))
        if gone:
            table.delete(f"shard IN ({', '.join(map(str, gone))})")
        for number, array in zip(shards, arrays, strict=True):
            if number in new:
                table.add(_rows(number, array))
        if (new or gone) and len(exact) >= FEWEST_ROWS:
            cells = max(1, int(len(exact) ** 0.5))
            table.create_index(metric="dot", num_partitions=cells, num_sub_vectors=max(1, width // 8), replace=True)
        if new or gone:
            write_json(state, sorted(shards))
        starts = np.cumsum([0, *shards.values()])
        return cls(table, dict(zip(shards, map(int, starts[:-1]), strict=True)), dead, exact)

    def __len__(self) -> int:
        return len(self._exact)

    def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.search`; a hit may be lacking, and then the next best takes its place."""
        k = min(k, len(self))
        wanted = PROPOSALS * k + min(len(self._dead), PROPOSALS * k)
        query = self._table.search(vector).metric("dot").nprobes(PROBED_CELLS).limit(wanted)
        proposed = query.select(["shard", "row", "_distance"]).to_arrow()
        shards, rows = proposed["shard"].to_numpy(), proposed["row"].to_numpy()
        positions = np.array([self._first[int(shard)] for shard in shards], dtype=np.int64) + rows
        positions = np.sort(positions[~np.isin(positions, self._dead)])
        cosines = self._exact.vectors(positions).astype(np.float64) @ vector.astype(np.float64)
        best = np.argsort(-cosines, kind="stable")[:k]
        return positions[best], cosines[best]


def _schema(width: int) -> pa.Schema:
    vector = pa.list_(pa.float16(), width)
    return pa.schema([("shard", pa.int64()), ("row", pa.int64()), ("vector", vector)])


def _rows(number: int, vectors: np.ndarray) -> pa.Table:
    count, width = vectors.shape
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float16())
    columns = [np.full(count, number), np.arange(count), pa.FixedSizeListArray.from_arrays(flat, width)]
    return pa.table(columns, schema=_schema(width))
