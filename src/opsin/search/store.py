"""The vectors of an index: one file of half-precision numbers that only grows, and the database that knows its rows.

`vectors-G.f16` holds float16 (N, D) without a header; G is the generation. New rows are written behind the last one and
reach the disk before the database names them. What a killed writer has left behind them is cut off by the next one, and
readers map named rows only, which never change. Rows that are no longer needed, or damaged, are left out of the file of
the next generation, which is complete before the database names it. The database has a checksum of each
`BLOCK_ROWS` rows.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from opsin.errors import CheckpointError, ConfigError
from opsin.files import atomic_write, remove_leftovers, sync_directory
from opsin.names import printable
from opsin.search.collection import Entry
from opsin.search.database import DATABASE, Block, Database, Meta, Records, View

LOCK = ".lock"
BLOCK_ROWS = 8192
DEAD_SHARE = 0.3
"""Of the rows: with more that have no image, the store `is_wasteful`."""


class Store:
    """Reading is for any number of processes; a writer holds `locked`, and begins with `prepare`."""

    def __init__(self, directory: Path) -> None:
        """Raises CheckpointError when there is no readable index."""
        self.directory = directory
        self.database = Database(directory / DATABASE)

    @classmethod
    def create(cls, directory: Path, meta: Meta) -> Store:
        """A store without images, of the encoder that `meta` names."""
        Database.create(directory / DATABASE, meta)
        return cls(directory)

    def file(self, generation: int) -> Path:
        """The file of vectors of a generation."""
        return self.directory / f"vectors-{generation}.f16"

    def status(self, generation: int) -> Entry | None:
        """What tells a file of vectors from an altered one; None without a file."""
        with suppress(OSError):
            return Entry.of_file("", self.file(generation).stat())
        return None

    def read(self, view: View) -> np.ndarray:
        """Memory map float16 (N, D) of all rows, for a view with its live ones.

        Raises CheckpointError when any of them is damaged, or when images have no row."""
        vectors, damaged = self._checked(view)
        if damaged:
            raise self.damage(f"{len(damaged)} of {len(view.blocks)} blocks of vectors are lost or altered")
        if not all(row is not None and 0 <= row < len(vectors) for row in view.live):
            raise self.damage("some of its images have no vectors")
        return vectors

    def damage(self, what: str) -> CheckpointError:
        """The error that says what is damaged, and which command mends it."""
        source, index = printable(self.database.meta().source), str(self.directory)
        return CheckpointError(
            f"the index {index} is damaged: {what}; run 'opsin index {shlex.quote(source)} --out {shlex.quote(index)}'"
            ", which encodes the images concerned again"
        )

    def prepare(self) -> set[str]:
        """Remove what killed writers have left, and forget damaged rows, so that their images have no vector. Returns
        the digests of the contents that have one."""
        view = self.database.view()
        remove_leftovers(self.directory)
        for path in self.directory.glob("vectors-*.f16"):
            if path != self.file(view.meta.generation):
                _remove(path)
        vectors, damaged = self._checked(view)
        contents = self.database.contents(len(vectors))
        if contents is not None and not damaged:
            return contents
        kept = np.zeros(len(vectors), dtype=bool)
        for block in set(view.blocks) - set(damaged):
            kept[block.start : block.start + block.rows] = True
        rows = self.database.vectors().items()
        intact = {digest: row for digest, row in rows if 0 <= row < len(kept) and kept[row]}
        self._rewrite(view.meta, vectors, intact)
        return set(intact)

    def append(self, vectors: np.ndarray, digests: Sequence[str], files: Records) -> None:
        """Add float16 (n, D) of new contents, and note the files that have been read.

        Raises CheckpointError when it cannot be written; the store is then as it was.
        """
        view = self.database.view()
        count, path = _row_count(view.blocks), self.file(view.meta.generation)
        width = 2 * view.meta.dim
        try:
            is_new = not path.exists()
            with open(path, "xb" if is_new else "r+b") as file:
                file.truncate(count * width)
                file.seek(count * width)
                file.write(np.ascontiguousarray(vectors, dtype=np.float16).data)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_directory(self.directory)
        except OSError as error:
            raise CheckpointError(
                f"{path} could not be written ({error.strerror or error}); the index is as it was"
            ) from error
        total = count + len(vectors)
        mapped = _mapped(path, total, view.meta.dim)
        is_open = bool(view.blocks) and view.blocks[-1].rows < BLOCK_ROWS
        first = view.blocks[-1].start if is_open else count
        blocks = [_block(mapped, start, BLOCK_ROWS) for start in range(first, total, BLOCK_ROWS)]
        self.database.stage(blocks, dict(zip(digests, range(count, total), strict=True)), files)

    def is_wasteful(self) -> bool:
        """Whether many rows have no image, but not all of them. Copies of images can hide some."""
        view = self.database.view()
        return 0 < view.images < (1 - DEAD_SHARE) * _row_count(view.blocks)

    def compact(self) -> None:
        """Leave out the rows that have no image. Raises CheckpointError when vectors are damaged."""
        view = self.database.view(live=True)
        vectors, live = self.read(view), set(view.live)
        rows = {digest: row for digest, row in self.database.vectors().items() if row in live}
        if len(rows) < len(vectors):
            self._rewrite(view.meta, vectors, rows)

    def _rewrite(self, meta: Meta, vectors: np.ndarray, rows: dict[str, int]) -> None:
        """Write the next generation, of some rows, which stay in their order."""
        digests = sorted(rows, key=rows.__getitem__)
        order = np.array([rows[digest] for digest in digests], dtype=np.int64)
        path, blocks = self.file(meta.generation + 1), []
        with atomic_write(path) as file:
            for start in range(0, len(order), BLOCK_ROWS):
                part = vectors[order[start : start + BLOCK_ROWS]]
                file.write(part.data)
                blocks.append(_block(part, 0, BLOCK_ROWS)._replace(start=start))
        self.database.replace_vectors(blocks, {digest: row for row, digest in enumerate(digests)})
        _remove(self.file(meta.generation))

    def _checked(self, view: View) -> tuple[np.ndarray, list[Block]]:
        """The rows that are there, and the blocks that are lost or altered: all of them if they do not follow each
        other."""
        path, dim = self.file(view.meta.generation), view.meta.dim
        count, status = _row_count(view.blocks), self.status(view.meta.generation)
        vectors = _mapped(path, min(count, status.size // (2 * dim) if status else 0), dim)
        if count != sum(block.rows for block in view.blocks) or any(block.rows < 1 for block in view.blocks):
            return vectors, view.blocks
        return vectors, [block for block in view.blocks if _block(vectors, block.start, block.rows) != block]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """The only writer of an index. Raises ConfigError when there is another one."""
    lock = FileLock(directory / LOCK)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another process is updating the index {directory}; wait for it") from error
    except OSError as error:
        raise CheckpointError(f"the index {directory} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _row_count(blocks: Sequence[Block]) -> int:
    return max((block.start + block.rows for block in blocks), default=0)


def _block(vectors: np.ndarray, start: int, rows: int) -> Block:
    """The rows that there are from `start` on, at most `rows`."""
    part = vectors[start : start + rows]
    return Block(start, len(part), hashlib.sha256(part.data).hexdigest())


def _mapped(path: Path, rows: int, dim: int) -> np.ndarray:
    """float16 (rows, dim). Raises CheckpointError when the file has fewer."""
    if rows == 0:
        return np.zeros((0, dim), dtype=np.float16)
    try:
        # Copy-on-write lets torch view the map without a warning; nothing ever writes to it.
        return np.memmap(path, np.float16, "c", shape=(rows, dim))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _remove(path: Path) -> None:
    with suppress(OSError):  # such as Windows has for a file that a reader maps; the next writer tries again
        path.unlink()
