"""The vectors of an index as they were at one revision, for searching while others update it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from opsin.search.collection import Entry
from opsin.search.confidence import ChanceLevel, chance_level
from opsin.search.exact import ExactIndex, VectorIndex
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
