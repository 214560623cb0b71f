"""Approximate search with LanceDB finds nearly all that the exact search finds, and keeps up with the index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opsin.errors import CheckpointError, MissingExtraError
from opsin.search.index import ImageIndex
from opsin.search.lance import FEWEST_ROWS, STATE, LanceIndex
from opsin.search.snapshot import ExactIndex
from tests.search.colours import ColourEncoder, paint, paint_many

ROOT = Path(__file__).parents[2]
WIDTH = 30
"""Not a multiple of eight, which the quantisation works in."""


def clustered(count: int, clusters: int) -> np.ndarray:
    """Unit vectors float16 around so many centres, in random order."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((clusters, WIDTH))
    vectors = centres[random.integers(clusters, size=count)] + 0.6 * random.standard_normal((count, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def lance_index(
    path: Path, vectors: np.ndarray, dead: np.ndarray, generation: int = 0
) -> tuple[LanceIndex, ExactIndex]:
    exact = ExactIndex(vectors, dead)
    return LanceIndex.synchronized(path, generation, exact), exact


def recall(index: LanceIndex, exact: ExactIndex, queries: np.ndarray) -> float:
    found = 0
    for query in queries:
        (expected, _), (positions, cosines) = exact.search(query, 10), index.search(query, 10)
        assert len(positions) == 10 and (np.diff(cosines) <= 0).all()
        np.testing.assert_allclose(cosines, exact.vectors[positions].astype(np.float64) @ query, atol=1e-12)
        found += len(np.intersect1d(expected, positions))
    return found / (10 * len(queries))


def test_recall_on_clustered_vectors_also_after_rows_and_generations_come(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vectors = clustered(3 * FEWEST_ROWS // 2 + 100, 60)
    queries = vectors[:100].astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    vectors, more = np.split(vectors[100:], [FEWEST_ROWS])
    dead = np.array([3, 500], dtype=np.int64)
    index, exact = lance_index(tmp_path / "lancedb", vectors, dead)
    assert len(index) == len(vectors) - 2
    assert recall(index, exact, queries) >= 0.95
    longer = np.concatenate([vectors, more])
    for array, generation in ((longer, 0), (longer[::-1].copy(), 1)):
        index, exact = lance_index(tmp_path / "lancedb", array, dead, generation)
        assert recall(index, exact, queries) >= 0.95
    np.testing.assert_array_equal(index.search(queries[0], len(index))[0], exact.search(queries[0], len(index))[0])
    assert capfd.readouterr() == ("", "")


def test_an_index_is_searched_and_followed(tmp_path: Path) -> None:
    paint_many(tmp_path / "photos", 20)
    ImageIndex.create(tmp_path / "index", ColourEncoder()).update(tmp_path / "photos")
    exact = ImageIndex.open(tmp_path / "index", ColourEncoder())
    approximate = ImageIndex.open(tmp_path / "index", ColourEncoder(), backend="lancedb")
    assert list(approximate.search("red", k=30)) == list(exact.search("red", k=30))
    paint(tmp_path / "photos" / "red.png", (255, 0, 0))
    (tmp_path / "photos" / "000.png").unlink()
    exact.update()
    assert approximate.search("red", k=1)[0].id == "red.png"
    assert list(approximate.search("red", k=30)) == list(exact.search("red", k=30))
    state = tmp_path / "index" / "lancedb" / STATE
    for damaged in (b"", b"null", b"[[1]]", b"[" * 100_000, b'{"a": 1}'):
        state.write_bytes(damaged)
        assert len(ImageIndex.open(tmp_path / "index", ColourEncoder(), backend="lancedb").search("red", k=30)) == 20
    shutil.rmtree(tmp_path / "index" / "lancedb" / "vectors.lance")
    with pytest.raises(CheckpointError, match="LanceDB cannot use"):
        approximate.search("red")
    with pytest.raises(CheckpointError, match="LanceDB cannot use"):
        ImageIndex.open(tmp_path / "index", ColourEncoder(), backend="lancedb").search("red")
    shutil.rmtree(tmp_path / "index" / "lancedb")
    assert len(ImageIndex.open(tmp_path / "index", ColourEncoder(), backend="lancedb").search("red", k=30)) == 20


OFFLINE_SEARCH = """
import sys

opened = []

def note(event, arguments):
    if event == "socket.__new__" and arguments[1] != 1:  # 1: AF_UNIX, a pair of which asyncio talks to itself through
        opened.append(arguments[1:])
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
        opened.append(event)

sys.addaudithook(note)
sys.path.insert(0, sys.argv[1])
import socket
from opsin.search.index import ImageIndex
from tests.search.colours import ColourEncoder

had_ipv6 = socket.has_ipv6
print(len(ImageIndex.open(sys.argv[2], ColourEncoder(), backend="lancedb").search("red")))
assert "urllib3" in sys.modules  # which opened the socket
assert socket.has_ipv6 == had_ipv6
raise SystemExit(f"opened {opened}" if opened else 0)
"""


def test_offline_no_socket_is_opened(tmp_path: Path) -> None:
    paint_many(tmp_path / "photos", 5)
    ImageIndex.create(tmp_path / "index", ColourEncoder()).update(tmp_path / "photos")
    environment = {**os.environ, "OPSIN_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OFFLINE_SEARCH, str(ROOT), str(tmp_path / "index")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "5\n"), result.stderr


def test_without_lancedb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind, and the exact search is as it was."""
    paint_many(tmp_path / "photos", 5)
    ImageIndex.create(tmp_path / "index", ColourEncoder()).update(tmp_path / "photos")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"needs LanceDB: pip install 'opsin\[search\]'"):
        ImageIndex.open(tmp_path / "index", ColourEncoder(), backend="lancedb").search("red")
    assert sorted(tmp_path.rglob("*")) == before
    assert len(ImageIndex.open(tmp_path / "index", ColourEncoder()).search("red", k=9)) == 5
