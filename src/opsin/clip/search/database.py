"""What an index knows of its images, in SQLite: which row of which shard belongs to which file.

Rows of shards are never changed. A row without an image (its file was deleted or changed) has a tombstone, which keeps
the digest of the content, so that the vector is found again when the content comes back. All changes of an update are
one transaction: whoever reads the index sees it as it was before or as it is after.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from opsin.clip.search.collection import Entry, garbage_collection_paused
from opsin.clip.search.paths import path_to_text, text_to_path
from opsin.clip.search.shards import EncoderInfo
from opsin.errors import CheckpointError

FORMAT_VERSION = 1
DATABASE = "index.sqlite3"
FOLDER, SOURCE = "folder", "source"
"""Kinds of collection. What an index was made of is not guessed anew from what lies in the folder now."""
SECONDS_TO_WAIT = 30
"""For another process to end its transaction."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shards (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
CREATE TABLE images (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL,
    shard INTEGER NOT NULL, row INTEGER NOT NULL
);
CREATE UNIQUE INDEX images_by_place ON images (shard, row);
CREATE INDEX images_by_content ON images (sha256);
CREATE TABLE tombstones (
    shard INTEGER NOT NULL, row INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (shard, row)
);
CREATE INDEX tombstones_by_content ON tombstones (sha256);
CREATE TABLE skipped (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, reason TEXT NOT NULL);
"""

SHARDS = "SELECT number, rows FROM shards ORDER BY number"
TOMBSTONES = "SELECT shard, row, sha256 FROM tombstones ORDER BY shard, row"


class Place(NamedTuple):
    """Where a vector lies."""

    shard: int
    row: int


class Known(NamedTuple):
    """An image of the index."""

    entry: Entry
    digest: str
    place: Place


@dataclass
class Changes:
    """What one transaction does."""

    meta: dict[str, str] = field(default_factory=dict)
    new_shards: dict[int, int] = field(default_factory=dict)
    """Rows of each."""
    dropped_shards: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    """Paths that are no longer images of the index."""
    images: list[Known] = field(default_factory=list)
    """Images that are new, or known under this path with other content, place or time."""
    dead: dict[Place, str] = field(default_factory=dict)
    """Rows without an image, with the digest of their content."""
    revived: list[Place] = field(default_factory=list)
    """Rows that have an image again."""
    skipped: Mapping[str, tuple[Entry, str]] | None = None
    """All files that are known to be broken, by path, with the reason; None leaves them as they are."""


class Database:
    """The SQLite file of an index; every call has a connection of its own, so that threads may share the object."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError when there is no readable index at `path`, or one of a newer format."""
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path.parent} holds no index; make one with 'opsin index SRC --out {path.parent}'")
        with self._connection() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT_VERSION:
                raise CheckpointError(
                    f"the index {path.parent} has format version {version}, and this opsin reads up to "
                    f"{FORMAT_VERSION}; update opsin, or make the index again"
                )
            if version < 1:
                raise CheckpointError(f"{path} is no index of opsin; make the index again in another directory")

    @classmethod
    def create(cls, path: Path, info: EncoderInfo) -> Database:
        """An index without images, in place as a whole or not at all."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        with _clear_errors(path), closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;")
            meta = {"encoder": info.encoder, "fingerprint": info.fingerprint, "dim": str(info.dim)}
            values = {**meta, "source": "", "kind": "", "state": "", "next_shard": "0", "revision": "0"}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        os.replace(temporary, path)
        return cls(path)

    def meta(self) -> dict[str, str]:
        """Settings of the index: encoder, fingerprint, dim, source (as `path_to_text` writes it), kind (`FOLDER` or
        `SOURCE`, empty before the first update), state, next_shard, revision."""
        return dict(self._rows("SELECT key, value FROM meta"))

    def info(self) -> EncoderInfo:
        """The encoder that made the index."""
        meta = self.meta()
        return EncoderInfo(meta["encoder"], meta["fingerprint"], int(meta["dim"]))

    def layout(self) -> tuple[str, dict[int, int], list[tuple[int, int, str]]]:
        """Revision, `shards` and `tombstones` of one and the same moment."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            revision = connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()[0]
            shards = connection.execute(SHARDS).fetchall()
            tombstones = connection.execute(TOMBSTONES).fetchall()
            connection.execute("COMMIT")
        return str(revision), dict(shards), tombstones

    def count(self) -> int:
        """How many images there are."""
        return int(self._rows("SELECT count(*) FROM images")[0][0])

    def shards(self) -> dict[int, int]:
        """Rows of each shard, in order."""
        return dict(self._rows(SHARDS))

    @garbage_collection_paused()
    def images(self) -> dict[str, Known]:
        """All images by path."""
        known = {}
        for text, size, mtime_ns, digest, shard, row in self._rows("SELECT * FROM images"):
            path = text_to_path(text) if "%" in text else text
            known[path] = Known(Entry(path, size, mtime_ns), digest, Place(shard, row))
        return known

    def tombstones(self) -> list[tuple[int, int, str]]:
        """Shard, row and digest of every row without an image."""
        return self._rows(TOMBSTONES)

    def skipped(self) -> dict[str, tuple[Entry, str]]:
        """Files that are known to be broken, by path."""
        rows = self._rows("SELECT path, size, mtime_ns, reason FROM skipped")
        paths = (text_to_path(row[0]) for row in rows)
        return {
            path: (Entry(path, size, mtime), reason) for path, (_, size, mtime, reason) in zip(paths, rows, strict=True)
        }

    def paths_at(self, places: Sequence[Place]) -> list[str | None]:
        """The image of each row, None for a row without one."""
        with self._connection() as connection:
            found = [
                connection.execute("SELECT path FROM images WHERE shard = ? AND row = ?", place).fetchone()
                for place in places
            ]
        return [None if row is None else text_to_path(row[0]) for row in found]

    def place_of(self, digest: str) -> Place | None:
        """Any row with this content, tombstones included."""
        query = (
            "SELECT shard, row FROM images WHERE sha256 = ? UNION ALL "
            "SELECT shard, row FROM tombstones WHERE sha256 = ? LIMIT 1"
        )
        rows = self._rows(query, (digest, digest))
        return Place(*rows[0]) if rows else None

    def dead_places(self, digest: str) -> list[Place]:
        """The rows without an image that have this content."""
        query = "SELECT shard, row FROM tombstones WHERE sha256 = ? ORDER BY shard, row"
        return [Place(*row) for row in self._rows(query, (digest,))]

    def apply(self, changes: Changes) -> None:
        """Make all changes, or none. Raises CheckpointError when they cannot be written."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                _apply(connection, changes)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: Iterable[object] = ()) -> list[tuple]:
        with self._connection() as connection:
            return connection.execute(query, tuple(values)).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with _clear_errors(self.path):
            connection = sqlite3.connect(self.path, timeout=SECONDS_TO_WAIT, isolation_level=None)
            with closing(connection):
                yield connection


def _apply(connection: sqlite3.Connection, changes: Changes) -> None:
    removed = [*changes.removed, *(known.entry.id for known in changes.images)]
    connection.executemany("DELETE FROM images WHERE path = ?", ((path_to_text(path),) for path in removed))
    connection.executemany("DELETE FROM tombstones WHERE shard = ? AND row = ?", changes.revived)
    for number in changes.dropped_shards:
        connection.execute("DELETE FROM tombstones WHERE shard = ?", (number,))
        connection.execute("DELETE FROM shards WHERE number = ?", (number,))
    connection.executemany("INSERT INTO shards VALUES (?, ?)", changes.new_shards.items())
    rows = (
        (path_to_text(known.entry.id), known.entry.size, known.entry.mtime_ns, known.digest, *known.place)
        for known in changes.images
    )
    connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", rows)
    dead = ((*place, digest) for place, digest in changes.dead.items())
    connection.executemany("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", dead)
    if changes.skipped is not None:
        connection.execute("DELETE FROM skipped")
        broken = (
            (path_to_text(path), entry.size, entry.mtime_ns, reason)
            for path, (entry, reason) in changes.skipped.items()
        )
        connection.executemany("INSERT INTO skipped VALUES (?, ?, ?, ?)", broken)
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", changes.meta.items())
    connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise CheckpointError(
            f"the index {path.parent} could not be read or written ({error}); it is as it was"
        ) from error
    except (sqlite3.DatabaseError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove {path.parent} and make the index again") from error
