"""Nearest vectors: what every kind of search offers, and the exact one over memory-mapped half precision.

An exact search reads every vector once, so it is as fast as memory is; in half precision there is half as much to read
as in single precision. The half-precision product only picks candidates, with all those among them that its rounding
could have hidden; their cosines are then computed in double precision.

Dimensions: N vectors, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """Positions int64 (k,) and cosines float64 (k,), best first, for a vector float32 (D,) of length one.

        There are fewer than k when the index has fewer. Positions count all rows of the shards in their order.
        """
        ...


class ExactIndex:
    """Compares with every vector."""

    def __init__(self, shards: Sequence[np.ndarray], dead: np.ndarray | None = None) -> None:
        """`shards` are float16 (n, D); `dead` int64 (M,) are positions that are never found."""
        self._shards = [shard for shard in shards if len(shard) > 0]
        self._offsets = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self._tensors = [torch.from_numpy(shard) for shard in self._shards]
        self._dead = torch.from_numpy(np.zeros(0, dtype=np.int64) if dead is None else np.unique(dead))

    def __len__(self) -> int:
        return int(self._offsets[-1]) - len(self._dead)

    def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.search`. Equal cosines come in the order of their positions."""
        k = min(k, len(self))
        if k < 1:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        rough = self._rough_cosines(vector)
        least = rough.topk(k).values[-1].float() - 2 * ROUNDING
        # Nearly always k and a few more; only copies of one vector could make them many, and then all are compared.
        positions = (rough >= least.to(rough.dtype)).nonzero()[:, 0].numpy()
        positions = positions[~np.isin(positions, self._dead.numpy())]
        cosines = self.vectors(positions).astype(np.float64) @ vector.astype(np.float64)
        best = np.argsort(-cosines, kind="stable")[:k]
        return positions[best], cosines[best]

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """The vectors float16 (n, D) at `positions`."""
        shards = np.searchsorted(self._offsets, positions, side="right") - 1
        width = self._shards[0].shape[1] if self._shards else 0
        found = np.empty((len(positions), width), dtype=np.float16)
        for number in np.unique(shards):
            here = shards == number
            found[here] = self._shards[number][positions[here] - self._offsets[number]]
        return found

    def _rough_cosines(self, vector: np.ndarray) -> torch.Tensor:
        """Cosines float16 (N,), minus infinity for dead rows."""
        query = torch.from_numpy(np.ascontiguousarray(vector)).half()
        rough = torch.empty(int(self._offsets[-1]), dtype=torch.float16)
        for tensor, start in zip(self._tensors, self._offsets[:-1], strict=True):
            torch.mv(tensor, query, out=rough[start : start + len(tensor)])
        rough[self._dead] = -torch.inf
        return rough
