"""What an index knows of its images, in SQLite: which content each file has, and which row holds the vector of which
content.

A vector belongs to a content (SHA-256), not to a file: moved, copied and restored files find theirs again. All changes
of an update become visible in one transaction: whoever reads the index sees it as it was before or as it is after.
"""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from opsin.errors import CheckpointError, CheckpointNotFoundError
from opsin.names import printable
from opsin.search.collection import Entry

FORMAT_VERSION = 3
"""Versions 1 and 2 kept vectors in shards."""
DATABASE = "index.sqlite3"
FOLDER, SOURCE = "folder", "source"
"""Kinds of collection. What an index was made of is not guessed anew from what lies in the folder now."""
SECONDS_TO_WAIT = 30
"""For another process to end its transaction."""
ROWS_AT_ONCE = 1000
"""That are read from the database: very many objects at once would keep the garbage collector busy."""

_ENTRY = (
    "path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, "
    "inode INTEGER NOT NULL"
)
TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE images ({_ENTRY}, sha256 TEXT NOT NULL);
CREATE INDEX images_by_content ON images (sha256);
CREATE TABLE staged ({_ENTRY}, sha256 TEXT NOT NULL);
CREATE TABLE skipped ({_ENTRY}, reason TEXT NOT NULL);
CREATE TABLE vectors (sha256 TEXT PRIMARY KEY, row INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
CREATE TABLE blocks (start INTEGER PRIMARY KEY, rows INTEGER NOT NULL, sha256 TEXT NOT NULL);
"""
"""`staged` are files that an unfinished update has read; their vectors are on disk already. `blocks` are checksums of
consecutive rows of the file of vectors."""

Record = tuple[int, int, int, int, str]
"""What an `Entry` says of a file besides its path, and the SHA-256 of its content, or the reason why it is skipped."""
Records = dict[str, Record]
"""By path. Plain tuples of numbers and texts, because there are very many: the garbage collector leaves those out."""


def record(entry: Entry, text: str) -> Record:
    """An entry and its digest or reason as a value of `Records`."""
    return (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode, text)


class Meta(NamedTuple):
    """Settings of an index; each is a row of the table `meta`, in JSON."""

    encoder: str = ""
    fingerprint: str = ""
    dim: int = 0
    reads_texts: bool = False
    """Whether the encoder reads texts, so that words can be looked up."""
    source: str = ""
    """Empty before the first update, as is `kind`."""
    kind: str = ""
    """`FOLDER` or `SOURCE`."""
    state: str = ""
    exclude: Sequence[str] = ()
    """The patterns of what is left out of the source."""
    generation: int = 0
    """Number of the file of vectors."""
    revision: int = 0
    """Counts the changes that readers can see."""


class Block(NamedTuple):
    """The checksum of some rows of the file of vectors."""

    start: int
    rows: int
    sha256: str


class View(NamedTuple):
    """What a reader needs to know, all of one moment."""

    meta: Meta
    images: int
    """How many there are."""
    blocks: list[Block]
    live: list[int | None]
    """The rows that have images, in no order, if they were asked for; None among them for images without a vector."""


class Database:
    """The SQLite file of an index; every call has a connection of its own, so that threads may share the object."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError when there is no readable index of this format at `path`."""
        self.path = path
        with _clear_errors(path):
            is_there = stat.S_ISREG(path.stat().st_mode)
        version = self._rows("PRAGMA user_version", int)[0][0] if is_there else 0
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"the index {path.parent} has format version {version}, and this opsin reads up to {FORMAT_VERSION}; "
                "update opsin, or make the index again"
            )
        if version < 1:
            raise CheckpointError(f"{path} is no index of opsin; make the index again in another directory")
        if version < FORMAT_VERSION:
            raise CheckpointError(
                f"the index {path.parent} was made by an earlier version of opsin (format version {version}, this "
                f"opsin reads {FORMAT_VERSION}); remove the directory, and make the index again with "
                f"'{self._old_command()}'"
            )

    @classmethod
    def create(cls, path: Path, meta: Meta) -> Database:
        """An index without images, in place as a whole or not at all."""
        temporary = path.with_name(f".{path.name}.tmp")
        with _clear_errors(path):
            for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
                leftover.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;")
                _write_meta(connection, meta)
            os.replace(temporary, path)
        return cls(path)

    def meta(self) -> Meta:
        """The settings."""
        with self._connection() as connection:
            return _meta(connection)

    def count(self) -> int:
        """How many images there are."""
        return int(self._rows("SELECT count(*) FROM images", int)[0][0])

    def view(self, *, live: bool = False) -> View:
        """Settings, blocks and, if asked for, rows with images of one and the same moment."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            meta = _meta(connection)
            rows_of_blocks = _select(connection, "SELECT * FROM blocks ORDER BY start", int, int, str)
            blocks = [Block(*row) for row in rows_of_blocks]
            joined = "SELECT row FROM images LEFT JOIN vectors USING (sha256)"
            rows = [row for (row,) in connection.execute(joined)] if live else []
            images = connection.execute("SELECT count(*) FROM images").fetchone()[0]
        if wrong := set(map(type, rows)) - {int, type(None)}:
            raise CheckpointError(f"{self.path} is damaged ({wrong.pop().__name__} as a row); make the index again")
        return View(meta, images, blocks, rows)

    def images(self) -> Records:
        """The images and the digests of their content."""
        return self._records("images", "sha256")

    def staged(self) -> Records:
        """Files that an unfinished update has read, and the digests of their content."""
        return self._records("staged", "sha256")

    def skipped(self) -> Records:
        """Files that are known to be broken, and the reasons."""
        return self._records("skipped", "reason")

    def contents(self, row_count: int) -> set[str] | None:
        """What has a vector, by digest; None if any row is not one of the first `row_count`."""
        with self._connection() as connection:
            wrong = "SELECT 1 FROM vectors WHERE typeof(row) != 'integer' OR row NOT BETWEEN 0 AND ?"
            outside = connection.execute(wrong, (row_count - 1,))
            if outside.fetchone() is not None:
                return None
            return {digest for (digest,) in _select(connection, "SELECT sha256 FROM vectors", str)}

    def vectors(self) -> dict[str, int]:
        """The row of each content."""
        with self._connection() as connection:
            return dict(_select(connection, "SELECT sha256, row FROM vectors", str, int))

    def paths(self, rows: Iterable[int]) -> tuple[int, list[list[str]]]:
        """The revision, and at this revision the images of each row."""
        query = "SELECT path FROM vectors JOIN images USING (sha256) WHERE row = ? ORDER BY path"
        with self._connection() as connection:
            connection.execute("BEGIN")
            found = [list(_select(connection, query, bytes, values=(int(row),))) for row in rows]
            return _meta(connection).revision, [[os.fsdecode(path) for (path,) in paths] for paths in found]

    def stage(self, blocks: Iterable[Block], vectors: Mapping[str, int], files: Records) -> None:
        """Note rows that have been written, and the files that they were made of; readers do not see them yet."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", blocks)
            connection.executemany("INSERT INTO vectors VALUES (?, ?)", vectors.items())
            _write_records(connection, "staged", files)

    def apply(self, meta: Meta, removed: Iterable[str], images: Records, skipped: Records) -> None:
        """Let readers see an update: images that are new or have changed, and those that have gone."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM images WHERE path = ?", ((os.fsencode(path),) for path in removed))
            _write_records(connection, "images", images)
            connection.execute("DELETE FROM skipped")
            _write_records(connection, "skipped", skipped)
            connection.execute("DELETE FROM staged")
            _write_meta(connection, meta._replace(revision=meta.revision + 1))

    def replace_vectors(self, blocks: Iterable[Block], vectors: Mapping[str, int]) -> None:
        """Let readers see the next generation of vectors."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM blocks")
            connection.execute("DELETE FROM vectors")
            connection.executemany("INSERT INTO blocks VALUES (?, ?, ?)", blocks)
            connection.executemany("INSERT INTO vectors VALUES (?, ?)", vectors.items())
            connection.execute("DELETE FROM staged WHERE sha256 NOT IN (SELECT sha256 FROM vectors)")
            meta = _meta(connection)
            _write_meta(connection, meta._replace(generation=meta.generation + 1, revision=meta.revision + 1))

    def _records(self, table: str, text: str) -> Records:
        query = f"SELECT path, size, mtime_ns, ctime_ns, inode, {text} FROM {table}"
        with self._connection() as connection:
            rows = _select(connection, query, bytes, int, int, int, int, str)
            return {os.fsdecode(row[0]): row[1:] for row in rows}

    def _old_command(self) -> str:
        """What made an index of an earlier format, whose settings were texts with %XX for unusual characters."""
        with self._connection() as connection:
            meta = dict(_select(connection, "SELECT key, CAST(value AS TEXT) FROM meta", str, str))
        source = printable(unquote(meta.get("source", ""), errors="surrogateescape")) or "SRC"
        model = meta.get("encoder", "MODEL")
        return f"opsin index {shlex.quote(source)} --out {shlex.quote(str(self.path.parent))} --model {model}"

    def _rows(self, query: str, *types: type) -> list[tuple]:
        with self._connection() as connection:
            return list(_select(connection, query, *types))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that the block writes, or nothing. Raises CheckpointError when it cannot be written."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")  # closing a connection rolls back what is not committed

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with _clear_errors(self.path):
            # Without the mode, a file that has gone would be made anew.
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(uri, SECONDS_TO_WAIT, isolation_level=None, uri=True)) as connection:
                yield connection


def _select(connection: sqlite3.Connection, query: str, *types: type, values: Sequence[object] = ()) -> Iterator[tuple]:
    """The rows of a query. Raises ValueError for another type in a column: SQLite stores any in any."""
    cursor = connection.execute(query, values)
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for expected, column in zip(types, zip(*rows, strict=True), strict=True):
            if wrong := set(map(type, column)) - {expected}:
                raise ValueError(f"{wrong.pop().__name__} in place of {expected.__name__}")
        yield from rows


def _meta(connection: sqlite3.Connection) -> Meta:
    texts = dict(_select(connection, "SELECT key, value FROM meta", str, str))
    values = {key: json.loads(text) for key, text in texts.items()}
    for key, default in Meta(exclude=[])._asdict().items():
        if type(values.get(key)) is not type(default):
            raise ValueError(f"its setting {key} is {texts.get(key, 'missing')}")
    meta = Meta(**{key: values[key] for key in Meta._fields})
    if meta.dim < 1 or min(meta.generation, meta.revision) < 0:
        raise ValueError(f"its settings have the numbers {meta.dim}, {meta.generation} and {meta.revision}")
    return meta


def _write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    # JSON in ASCII: paths may hold bytes that are no text, which SQLite does not take.
    values = ((key, json.dumps(value)) for key, value in meta._asdict().items())
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)


def _write_records(connection: sqlite3.Connection, table: str, records: Records) -> None:
    rows = ((os.fsencode(path), *found) for path, found in records.items())
    connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?, ?)", rows)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    index = path.parent
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{index} holds no index; make one with 'opsin index SRC --out {index}'"
        ) from error
    except NotADirectoryError as error:
        raise CheckpointError(f"{index} is a file; an index is a directory that 'opsin index' has made") from error
    except OSError as error:
        raise CheckpointError(f"the index {index} cannot be read or written: {error.strerror or error}") from error
    except (sqlite3.DatabaseError, ValueError, RecursionError) as error:
        if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
            raise CheckpointError(
                f"the index {index} could not be read or written ({error}); it is as it was"
            ) from error
        raise CheckpointError(f"{path} is damaged ({error}); remove {index} and make the index again") from error


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """A table or column that is not there, or text that is none; the other errors come from disk, rights or locks."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR
