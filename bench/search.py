"""Searching vectors of width 512: 10,000, 100,000 and a million of them, ten hits a query.

opsin is its exact search over memory-mapped half precision, as `opsin search` uses it. The peers:

- faiss IndexFlatIP: exact too, over single precision in memory, with the same number of threads;
- LanceDB: approximate (IVF-RQ), through opsin's own backend, which compares its proposals with the stored vectors.

The vectors lie around 1,000 directions, which an approximate search needs (in vectors without any structure it would
find little), and the queries lie around the same. All ways get the same values: those that half precision can hold.
Before anything is timed, the cosines of opsin's hits are compared with those of faiss; the hits are the same up to ties
of faiss's rounding. Memory is what the process has grown by, mapped pages included, once a search has touched it all.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import psutil
import torch
from harness.timing import parse_arguments, print_machine, print_table, print_timings, ratio, time_in_turn

from opsin.runtime import resolve_device, resolve_precision
from opsin.search.lance import LanceIndex
from opsin.search.snapshot import ExactIndex

WIDTH, HITS, DIRECTIONS, QUERIES = 512, 10, 1000, 100
PART_ROWS = 65536
SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (2_000, 6_000)


def unit_vectors(count: int, directions: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """float32 (count, WIDTH) of length one, each near one of the directions: their cosine is about 0.7."""
    near = directions[generator.integers(len(directions), size=count)]
    vectors = near + generator.standard_normal((count, WIDTH), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_vectors(path: Path, size: int, directions: np.ndarray, generator: np.random.Generator) -> None:
    """As an index keeps them: float16 (size, WIDTH) without a header."""
    with open(path, "wb") as file:
        for start in range(0, size, PART_ROWS):
            part = unit_vectors(min(PART_ROWS, size - start), directions, generator)
            file.write(part.astype(np.float16).data)


def grown_megabytes(before: int) -> float:
    return (psutil.Process().memory_info().rss - before) / 2**20


def measure(size: int, directory: Path, seconds: float, quick: bool) -> list[str]:
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((DIRECTIONS, WIDTH), dtype=np.float32)
    write_vectors(directory / "vectors.f16", size, directions, generator)
    queries = unit_vectors(QUERIES, directions, generator)

    before = psutil.Process().memory_info().rss
    vectors = np.memmap(directory / "vectors.f16", np.float16, "c", shape=(size, WIDTH))
    exact = ExactIndex(vectors)
    exact.search(queries[0], HITS)
    opsin_memory = grown_megabytes(before)

    before = psutil.Process().memory_info().rss
    flat = faiss.IndexFlatIP(WIDTH)
    for start in range(0, size, PART_ROWS):
        flat.add(vectors[start : start + PART_ROWS].astype(np.float32))
    flat.search(queries[:1], HITS)
    faiss_memory = grown_megabytes(before)

    expected = [exact.search(query, HITS) for query in queries]
    cosines, _ = flat.search(queries, HITS)
    np.testing.assert_allclose(cosines, [found for _, found in expected], atol=1e-5)

    turn = iter(range(10**9))
    ways = {
        "opsin exact": lambda: exact.search(queries[next(turn) % QUERIES], HITS),
        "faiss IndexFlatIP": lambda: flat.search(queries[next(turn) % QUERIES][None], HITS),
    }
    print(f"{size:,} vectors")
    timings = time_in_turn(ways, seconds=seconds / 2, quick=quick)
    print_timings(timings, "opsin exact", unit="queries/s")
    faiss_ratio = ratio(timings, "faiss IndexFlatIP", "opsin exact")

    # After the others, because building it takes a minute or so for a million vectors.
    started = time.perf_counter()
    lance = LanceIndex.synchronized(directory / "lancedb", 0, exact)
    built = time.perf_counter() - started
    pairs = zip(queries, expected, strict=True)
    recall = np.mean([np.isin(best, lance.search(query, HITS)[0]).mean() for query, (best, _) in pairs])
    ways = {
        "opsin exact": ways["opsin exact"],
        "opsin with LanceDB": lambda: lance.search(queries[next(turn) % QUERIES], HITS),
    }
    timings = time_in_turn(ways, seconds=seconds / 2, quick=quick)
    print_timings(timings, "opsin exact", unit="queries/s")
    memory = [f"{opsin_memory:.0f}", f"{faiss_memory:.0f}"]
    lance_ratio = ratio(timings, "opsin with LanceDB", "opsin exact")
    return [f"{size:,}", f"{faiss_ratio:.2f}", *memory, f"{lance_ratio:.2f}", f"{recall:.3f}", f"{built:.1f}"]


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=45)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    faiss.omp_set_num_threads(torch.get_num_threads())
    print_machine(resolve_precision("auto", resolve_device()))
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measure(size, Path(directory), arguments.seconds / len(sizes), arguments.quick))
    header = ["vectors", "faiss / opsin", "opsin MiB", "faiss MiB"]
    header += ["LanceDB / opsin", "its recall@10", "its building, s"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
