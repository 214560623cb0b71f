"""Nearest vectors: what every kind of search offers, and the exact one over memory-mapped half precision.

An exact search reads every vector once, so it is as fast as memory is; in half precision there is half as much to read
as in single precision. The half-precision product only picks candidates, with all those among them that its rounding
could have hidden; their cosines are then computed in double precision.

Dimensions: N vectors, D their width.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

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
