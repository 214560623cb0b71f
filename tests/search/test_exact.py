"""The half-precision search gives the hits of an exhaustive one in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin.search.snapshot import ExactIndex


def unit_vectors(count: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exhaustive(vectors: np.ndarray, query: np.ndarray, k: int, dead: set[int]) -> tuple[list[int], list[float]]:
    cosines = vectors.astype(np.float64) @ query.astype(np.float64)
    order = [int(row) for row in np.argsort(-cosines, kind="stable") if int(row) not in dead][:k]
    return order, [float(cosines[row]) for row in order]


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(0, 160),
    width=st.integers(1, 33),
    k=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_equals_an_exhaustive_search(total: int, width: int, k: int, seed: int, data: st.DataObject) -> None:
    vectors = unit_vectors(total, width, seed).astype(np.float16)
    dead = data.draw(st.sets(st.integers(0, max(total - 1, 0)), max_size=5)) if total else set()
    query = unit_vectors(1, width, seed + 1)[0].astype(np.float32)
    index = ExactIndex(vectors, np.array(sorted(dead), dtype=np.int64))
    positions, cosines = index.search(query, k)
    expected, expected_cosines = exhaustive(vectors, query, k, dead)
    assert len(index) == total - len(dead)
    assert positions.tolist() == expected
    np.testing.assert_allclose(cosines, expected_cosines, rtol=0, atol=1e-12)


def test_finds_the_best_among_thousands_that_half_precision_cannot_tell_apart() -> None:
    """All cosines lie within the rounding of a half-precision number."""
    base = unit_vectors(1, 64, 0)[0]
    vectors = (base + 1e-3 * unit_vectors(5000, 64, 1)).astype(np.float16)
    query = (base + 0.1 * unit_vectors(1, 64, 2)[0]).astype(np.float32)
    query /= np.linalg.norm(query)
    positions, _ = ExactIndex(vectors).search(query, 10)
    assert positions.tolist() == exhaustive(vectors, query, 10, set())[0]


def test_copies_of_one_vector_come_in_their_order() -> None:
    vectors = np.repeat(unit_vectors(1, 8, 0), 50, axis=0).astype(np.float16)
    positions, cosines = ExactIndex(vectors, np.array([1])).search(vectors[0].astype(np.float32), 4)
    assert positions.tolist() == [0, 2, 3, 4]
    assert len(set(cosines.tolist())) == 1


@pytest.mark.parametrize("dead", [None, np.arange(3)])
def test_nothing_to_find(dead: np.ndarray | None) -> None:
    vectors = unit_vectors(0 if dead is None else 3, 4, 0).astype(np.float16)
    positions, cosines = ExactIndex(vectors, dead).search(np.ones(4, dtype=np.float32), 5)
    assert len(positions) == len(cosines) == 0
