"""The vectors of an index as they were at one revision, for searching while others update it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from opsin.search.confidence import ChanceLevel, chance_level
from opsin.search.database import Database, Place, Shard
from opsin.search.exact import ExactIndex, VectorIndex
from opsin.search.integrity import damage, refuse_damaged
from opsin.search.query import Term
from opsin.search.shards import read_vectors

SAMPLE_ROWS = 4096
"""Vectors by which a query is judged against the collection."""

Backend = Literal["exact", "lancedb"]


@dataclass(frozen=True)
class Snapshot:
    """The index as it was at one revision."""

    revision: int
    vectors: VectorIndex
    size: int
    """Images that can be found."""
    shards: tuple[Shard, ...]
    starts: np.ndarray
    """Position of the first row of each shard, and of the end."""
    sample: np.ndarray
    """float32 (S, D), of images that can be found."""
    _chance: dict[tuple[tuple[float, bool], ...], ChanceLevel | None] = field(default_factory=dict)

    def places(self, positions: np.ndarray) -> list[Place]:
        """Shard and row of positions int64 (K,)."""
        shards = np.searchsorted(self.starts, positions, side="right") - 1
        return [
            Place(self.shards[shard].number, int(position - self.starts[shard]))
            for shard, position in zip(shards, positions, strict=True)
        ]

    def chance(self, terms: Sequence[Term], texts: np.ndarray) -> ChanceLevel | None:
        """See `opsin.search.confidence.chance_level`; kept for the next query of the same make-up."""
        make_up = tuple((term.weight, term.is_text) for term in terms)
        if make_up not in self._chance:
            self._chance[make_up] = chance_level(terms, texts, self.sample)
        return self._chance[make_up]


def read_snapshot(directory: Path, database: Database, backend: Backend) -> Snapshot:
    """The vectors as they are now. Raises CheckpointError for a damaged or missing shard, MissingExtraError for the
    backend `lancedb` without LanceDB."""
    dim = database.info().dim
    revision, shards, tombstones = database.layout()
    refuse_damaged(directory, database, shards.values())
    arrays = [read_vectors(directory, number, dim) for number in shards]
    rows = {number: len(array) for number, array in zip(shards, arrays, strict=True)}
    if any(shard.rows != rows[shard.number] for shard in shards.values()) or any(
        not 0 <= row < rows.get(number, 0) for number, row, _ in tombstones
    ):
        raise damage(directory, database, "its database names rows that the shards do not have")
    starts = np.cumsum([0, *rows.values()])
    first = dict(zip(shards, starts[:-1], strict=True))
    dead = np.array([first[shard] + row for shard, row, _ in tombstones], dtype=np.int64)
    exact = ExactIndex(arrays, dead)
    alive = np.setdiff1d(np.arange(starts[-1]), dead)
    if len(alive) > SAMPLE_ROWS:
        alive = alive[np.linspace(0, len(alive) - 1, SAMPLE_ROWS).astype(np.int64)]
    vectors: VectorIndex = exact
    if backend == "lancedb":
        from opsin.search.lance import LanceIndex

        vectors = LanceIndex.synchronised(directory / "lancedb", rows, arrays, dead, exact)
    return Snapshot(
        revision, vectors, len(exact), tuple(shards.values()), starts, exact.vectors(alive).astype(np.float32)
    )
