"""What an index knows of its images, in SQLite: which row of which shard belongs to which file.

Rows of shards are never changed. A row without an image (its file was deleted or changed) has a tombstone, which keeps
the digest of the content, so that the vector is found again when the content comes back. All changes of an update are
one transaction: whoever reads the index sees it as it was before or as it is after.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from opsin.errors import CheckpointError
from opsin.search.collection import Entry, garbage_collection_paused
from opsin.search.paths import path_to_text, text_to_path
from opsin.search.shards import EncoderInfo

FORMAT_VERSION = 2
"""Version 1 lacks change times, inodes and digests of shards, and some of its photos were turned the wrong way."""
DATABASE = "index.sqlite3"
FOLDER, SOURCE = "folder", "source"
"""Kinds of collection. What an index was made of is not guessed anew from what lies in the folder now."""
SECONDS_TO_WAIT = 30
"""For another process to end its transaction."""

META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);"
TABLES = """
CREATE TABLE shards (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE images (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, sha256 TEXT NOT NULL, shard INTEGER NOT NULL, row INTEGER NOT NULL
);
CREATE UNIQUE INDEX images_by_place ON images (shard, row);
CREATE INDEX images_by_content ON images (sha256);
CREATE TABLE tombstones (
    shard INTEGER NOT NULL, row INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (shard, row)
);
CREATE INDEX tombstones_by_content ON tombstones (sha256);
CREATE TABLE skipped (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, reason TEXT NOT NULL
);
"""
ENTRY, ENTRY_TYPES = "path, size, mtime_ns, ctime_ns, inode", (str, int, int, int, int)
DROP_TABLES = "".join(f"DROP TABLE IF EXISTS {name};" for name in ("shards", "images", "tombstones", "skipped"))


class Meta(NamedTuple):
    """Settings of an index."""

    encoder: str
    fingerprint: str
    dim: int
    source: str
    """Empty before the first update, as is `kind`."""
    kind: str
    """`FOLDER` or `SOURCE`."""
    state: str
    next_shard: int
    revision: int
    exclude: str = ""
    """The patterns of what is left out of the source, each as text in a line."""

    @property
    def shard_key(self) -> str:
        """Of shards whose vectors belong into this index."""
        return f"{self.fingerprint} {FORMAT_VERSION}"


class Shard(NamedTuple):
    """A file of vectors."""

    number: int
    rows: int
    sha256: str


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
    new_shards: list[Shard] = field(default_factory=list)
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
        with _clear_errors(path):
            is_there = stat.S_ISREG(path.stat().st_mode)
        version = self._version() if is_there else 0
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"the index {path.parent} has format version {version}, and this opsin reads up to {FORMAT_VERSION}; "
                "update opsin, or make the index again"
            )
        if version < 1:
            raise CheckpointError(f"{path} is no index of opsin; make the index again in another directory")

    @classmethod
    def create(cls, path: Path, info: EncoderInfo) -> Database:
        """An index without images, in place as a whole or not at all."""
        temporary = path.with_name(f".{path.name}.tmp")
        with _clear_errors(path):
            for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
                leftover.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                connection.executescript(f"BEGIN; {META} {TABLES} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;")
                meta = Meta(info.encoder, info.fingerprint, info.dim, "", "", "", 0, 0)
                values = [(key, str(value)) for key, value in meta._asdict().items()]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
            os.replace(temporary, path)
        return cls(path)

    @property
    def is_outdated(self) -> bool:
        """Whether the index has the format of an earlier opsin: of that, `meta`, `count` and `sizes` can be read."""
        return self._version() < FORMAT_VERSION

    def renew(self, info: EncoderInfo) -> None:
        """Make an index of an earlier format one of this format, without images, of the same source."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            _renew(connection, info)
            connection.execute("COMMIT")

    def meta(self) -> Meta:
        """The settings."""
        with self._connection() as connection:
            return _meta(connection)

    def info(self) -> EncoderInfo:
        """The encoder that made the index."""
        meta = self.meta()
        return EncoderInfo(meta.encoder, meta.fingerprint, meta.dim)

    def layout(self) -> tuple[int, dict[int, Shard], list[tuple[int, int, str]]]:
        """Revision, `shards` and `tombstones` of one and the same moment."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            layout = _meta(connection).revision, _shards(connection), _tombstones(connection)
            connection.execute("COMMIT")
        return layout

    def count(self) -> int:
        """How many images there are."""
        return int(self._rows("SELECT count(*) FROM images", int)[0][0])

    def shards(self) -> dict[int, Shard]:
        """The shards by number, in order."""
        with self._connection() as connection:
            return _shards(connection)

    def sizes(self) -> dict[str, int]:
        """The size of each image's file, by path."""
        return {text_to_path(text): size for text, size in self._rows("SELECT path, size FROM images", str, int)}

    @garbage_collection_paused()
    def images(self) -> dict[str, Known]:
        """All images by path."""
        known = {}
        query = f"SELECT {ENTRY}, shard, row, sha256 FROM images"
        for text, size, mtime_ns, ctime_ns, inode, shard, row, digest in self._rows(query, *ENTRY_TYPES, int, int, str):
            path = text_to_path(text) if "%" in text else text
            known[path] = Known(Entry(path, size, mtime_ns, ctime_ns, inode), digest, Place(shard, row))
        return known

    def tombstones(self) -> list[tuple[int, int, str]]:
        """Shard, row and digest of every row without an image."""
        with self._connection() as connection:
            return _tombstones(connection)

    def skipped(self) -> dict[str, tuple[Entry, str]]:
        """Files that are known to be broken, by path."""
        found = {}
        for text, *numbers, reason in self._rows(f"SELECT {ENTRY}, reason FROM skipped", *ENTRY_TYPES, str):
            path = text_to_path(text)
            found[path] = Entry(path, *numbers), reason
        return found

    def paths_at(self, places: Sequence[Place]) -> list[str | None]:
        """The image of each row, None for a row without one."""
        query = "SELECT path FROM images WHERE shard = ? AND row = ?"
        with self._connection() as connection:
            found = [_select(connection, query, (str,), place) for place in places]
        return [text_to_path(rows[0][0]) if rows else None for rows in found]

    def place_of(self, digest: str, *, except_in: Collection[int] = ()) -> Place | None:
        """Any row with this content, tombstones included, that is not in certain shards."""
        where = f"WHERE sha256 = ? AND shard NOT IN ({', '.join(map(str, except_in))})"
        query = f"SELECT shard, row FROM images {where} UNION ALL SELECT shard, row FROM tombstones {where} LIMIT 1"
        rows = self._rows(query, int, int, values=(digest, digest))
        return Place(*rows[0]) if rows else None

    def dead_places(self, digest: str) -> list[Place]:
        """The rows without an image that have this content."""
        query = "SELECT shard, row FROM tombstones WHERE sha256 = ? ORDER BY shard, row"
        return [Place(*row) for row in self._rows(query, int, int, values=(digest,))]

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

    def _version(self) -> int:
        return int(self._rows("PRAGMA user_version", int)[0][0])

    def _rows(self, query: str, *types: type, values: Iterable[object] = ()) -> list[tuple]:
        with self._connection() as connection:
            return _select(connection, query, types, values)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with _clear_errors(self.path):
            uri = (
                f"{self.path.absolute().as_uri()}?mode=rw"  # without the mode, a file that has gone would be made anew
            )
            with closing(sqlite3.connect(uri, SECONDS_TO_WAIT, isolation_level=None, uri=True)) as connection:
                yield connection


def _apply(connection: sqlite3.Connection, changes: Changes) -> None:
    removed = [*changes.removed, *(known.entry.id for known in changes.images)]
    connection.executemany("DELETE FROM images WHERE path = ?", ((path_to_text(path),) for path in removed))
    connection.executemany("DELETE FROM tombstones WHERE shard = ? AND row = ?", changes.revived)
    for number in changes.dropped_shards:
        connection.execute("DELETE FROM tombstones WHERE shard = ?", (number,))
        connection.execute("DELETE FROM shards WHERE number = ?", (number,))
    connection.executemany("INSERT INTO shards VALUES (?, ?, ?)", changes.new_shards)
    rows = ((*_stored(known.entry), known.digest, *known.place) for known in changes.images)
    connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    dead = ((*place, digest) for place, digest in changes.dead.items())
    connection.executemany("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", dead)
    if changes.skipped is not None:
        connection.execute("DELETE FROM skipped")
        broken = ((*_stored(entry), reason) for entry, reason in changes.skipped.values())
        connection.executemany("INSERT INTO skipped VALUES (?, ?, ?, ?, ?, ?)", broken)
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", changes.meta.items())
    connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")


def _renew(connection: sqlite3.Connection, info: EncoderInfo) -> None:
    for statement in f"{DROP_TABLES} {TABLES}".split(";"):
        connection.execute(statement)
    settings = [(info.encoder, "encoder"), (info.fingerprint, "fingerprint"), (str(info.dim), "dim"), ("", "state")]
    connection.executemany("UPDATE meta SET value = ? WHERE key = ?", settings)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _stored(entry: Entry) -> tuple[str, int, int, int, int]:
    return (path_to_text(entry.id), *entry[1:])


def _select(
    connection: sqlite3.Connection, query: str, types: Sequence[type], values: Iterable[object] = ()
) -> list[tuple]:
    """The rows of a query. Raises ValueError for another type in a column: SQLite stores any in any."""
    rows = connection.execute(query, tuple(values)).fetchall()
    for expected, column in zip(types, zip(*rows, strict=True), strict=bool(rows)):
        if wrong := set(map(type, column)) - {expected}:
            raise ValueError(f"{wrong.pop().__name__} in place of {expected.__name__}")
    return rows


def _meta(connection: sqlite3.Connection) -> Meta:
    found = dict(_select(connection, "SELECT key, CAST(value AS TEXT) FROM meta", (str, str)))
    found = {"exclude": "", **found}  # older indexes leave nothing out
    if missing := [key for key in Meta._fields if key not in found]:
        raise ValueError(f"its settings lack {', '.join(missing)}")
    texts = {key: found[key] for key in Meta._fields}
    numbers = {key: int(texts[key]) for key in ("dim", "next_shard", "revision")}
    if numbers["dim"] < 1 or min(numbers.values()) < 0:
        raise ValueError(f"its settings have the numbers {numbers}")
    return Meta(**{**texts, **numbers, "source": text_to_path(texts["source"])})


def _shards(connection: sqlite3.Connection) -> dict[int, Shard]:
    rows = _select(connection, "SELECT number, rows, sha256 FROM shards ORDER BY number", (int, int, str))
    return {row[0]: Shard(*row) for row in rows}


def _tombstones(connection: sqlite3.Connection) -> list[tuple[int, int, str]]:
    return _select(connection, "SELECT shard, row, sha256 FROM tombstones ORDER BY shard, row", (int, int, str))


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    index = path.parent
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{index} holds no index; make one with 'opsin index SRC --out {index}'") from error
    except NotADirectoryError as error:
        raise CheckpointError(f"{index} is a file; an index is a directory that 'opsin index' has made") from error
    except OSError as error:
        raise CheckpointError(f"the index {index} cannot be read or written: {error.strerror or error}") from error
    except (sqlite3.DatabaseError, ValueError) as error:
        if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
            raise CheckpointError(
                f"the index {index} could not be read or written ({error}); it is as it was"
            ) from error
        raise CheckpointError(f"{path} is damaged ({error}); remove {index} and make the index again") from error


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """A table or column that is not there, or text that is none; the other errors come from disk, rights or locks."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR
