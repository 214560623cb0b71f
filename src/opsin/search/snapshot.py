"""The vectors of an index as they were at one revision, for searching while others update it, and how the nearest are
found: by any kind of search, and by the exact one over memory-mapped half precision.

An exact search reads every vector once, so it is as fast as memory is; in half precision there is half as much to read
as in single precision. The half-precision product only picks candidates, with all those among them that its rounding
could have hidden; their cosines are then computed in double precision.

Dimensions: N vectors, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch

from opsin.search.collection import Entry
from opsin.search.confidence import ChanceLevel, chance_level
from opsin.search.query import Term
from opsin.search.store import Store

SAMPLE_ROWS = 4096
"""Vectors by which a query is judged against the collection."""

Backend = Literal["exact", "lancedb"]


@dataclass(frozen=True)
class Snapshot:
    """The index as it was at one revision."""

    revision: int
    status: Entry | None
    """Of the file of vectors, before its checksums were compared."""
    vectors: VectorIndex
    size: int
    """Images that can be found."""
    sample: np.ndarray
    """float32 (S, D), of images that can be found."""
    _chance: dict[tuple[tuple[float, bool], ...], ChanceLevel | None] = field(default_factory=dict)

    def chance(self, terms: Sequence[Term], texts: np.ndarray) -> ChanceLevel | None:
        """See `opsin.search.confidence.chance_level`; kept for the next query of the same make-up."""
        make_up = tuple((term.weight, term.is_text) for term in terms)
        if make_up not in self._chance:
            self._chance[make_up] = chance_level(terms, texts, self.sample)
        return self._chance[make_up]


def read_snapshot(store: Store, backend: Backend) -> Snapshot:
    """The vectors as they are now. Raises CheckpointError when some are damaged or missing, MissingExtraError for the
    backend `lancedb` without LanceDB."""
    view = store.database.view(live=True)
    status = store.status(view.meta.generation)
    array = store.read(view)
    live = np.unique(np.array(view.live, dtype=np.int64))
    exact = ExactIndex(array, np.setdiff1d(np.arange(len(array)), live, assume_unique=True))
    vectors: VectorIndex = exact
    if backend == "lancedb":
        from opsin.search.lance import LanceIndex

        vectors = LanceIndex.synchronized(store.directory / "lancedb", view.meta.generation, exact)
    if len(live) > SAMPLE_ROWS:
        live = live[np.linspace(0, len(live) - 1, SAMPLE_ROWS).astype(np.int64)]
    return Snapshot(view.meta.revision, status, vectors, view.images, array[live].astype(np.float32))


ROUNDING = 1e-3
"""More than the cosine of two vectors of length one can be off: 2^-11 from rounding the query to half precision, and
2^-12 from rounding the result; the sum is computed in single precision. (The stored vectors count as exact.)"""


class VectorIndex(Protocol):
    """Finds the vectors with the largest cosines."""

    def __len__(self) -> int:
        """How many vectors can be found."""
        ...

    def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 (k,) and cosines float64 (k,), best first, for a vector float32 (D,) of length one.

        There are fewer than k when the index has fewer.
        """
        ...


class ExactIndex:
    """Compares with every vector."""

    def __init__(self, vectors: np.ndarray, dead: np.ndarray | None = None) -> None:
        """`vectors` float16 (N, D); `dead` int64 (M,) are rows that are never found."""
        self.vectors = vectors
        self.dead = np.zeros(0, dtype=np.int64) if dead is None else np.unique(dead)
        self._tensor = torch.from_numpy(vectors)
        self._dead = torch.from_numpy(self.dead)

    def __len__(self) -> int:
        return len(self.vectors) - len(self.dead)

    def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.search`. Equal cosines come in the order of their rows."""
        k = min(k, len(self))
        if k < 1:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        rough = torch.mv(self._tensor, torch.from_numpy(np.ascontiguousarray(vector)).half())  # float16 (N,)
        rough[self._dead] = -torch.inf
        least = rough.topk(k).values[-1].float() - 2 * ROUNDING
        # Nearly always k and a few more; only copies of one vector could make them many, and then all are compared.
        rows = (rough >= least.to(rough.dtype)).nonzero()[:, 0].numpy()
        return self.best(rows[~np.isin(rows, self.dead)], vector, k)

    def best(self, rows: np.ndarray, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best k of some rows, which are in order, and their cosines in double precision."""
        cosines = self.vectors[rows].astype(np.float64) @ vector.astype(np.float64)
        best = np.argsort(-cosines, kind="stable")[:k]
        return rows[best], cosines[best]
