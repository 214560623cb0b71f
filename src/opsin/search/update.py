"""Bringing an index up to date with its collection, without encoding anything twice.

Encoded images go to disk at once, with a note of the files that they were made of; the index shows all of them in one
transaction at the end. So whoever searches meanwhile sees the index as it was, and so does everyone after an update
that failed; and the next update goes on from there. Images whose vectors are damaged are encoded again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from opsin.errors import CheckpointError, ConfigError, OpsinError
from opsin.images.opening import Skipped
from opsin.names import printable
from opsin.progress import Progress, working
from opsin.search.collection import Collection, Entry, FolderCollection
from opsin.search.database import FOLDER, SOURCE, Records, record
from opsin.search.encoding import Encode, Encoded, InputSize, encode_entries
from opsin.search.results import UpdateReport
from opsin.search.shards import is_intact, read_infos, read_manifest, read_rows, read_vectors
from opsin.search.store import BLOCK_ROWS, Store

STAGED_ROWS, STAGED_SECONDS = 512, 120.0
"""Encoded images go to disk when there are so many, or after so long: what a crash can cost, at most."""


class Update:
    """One update of a store; the caller holds its lock."""

    def __init__(self, store: Store, contents: set[str], collection: Collection, *, rehash: bool = False) -> None:
        """`contents` is what `Store.prepare` gave. With `rehash` all files are read, also where nothing says that they
        have changed."""
        self._store, self._collection, self._rehash = store, collection, rehash
        self._meta = store.database.meta()
        self._known = store.database.images()
        self._contents = contents
        """Digests of what has a vector."""
        self._lost = {path for path, known in self._known.items() if known[-1] not in contents}
        """Images whose vectors were damaged."""
        self._placed: Records = {}
        """Images that are new, or known under this path with other content or times."""
        self._broken: Records = {}
        self._problems: list[Encoded] = []
        self._pending: list[tuple[Entry, str, np.ndarray]] = []
        self._staged_at = time.monotonic()
        self._unchanged = self._encoded = 0

    def run(self, encode: Encode, input_size: InputSize, *, progress: Progress | None = None) -> UpdateReport:
        """Read and encode what is new or changed, and let readers see it."""
        candidates = self._compare()
        try:
            with working(progress, "indexing", len(candidates)) as advance:
                is_known = self._contents.__contains__
                for batch in encode_entries(self._collection, candidates, encode, is_known, size=input_size):
                    for result in batch:
                        self._take(result)
                    advance(len(batch))
        except BaseException:
            with suppress(OpsinError):  # such as a full disk, which may be why the update ends
                self._stage()
            raise
        self._stage()
        removed = self._removed()
        self._commit(removed)
        return self._report(removed)

    def _compare(self) -> list[Entry]:
        """The entries that have to be read: new, perhaps changed, or without a vector."""
        candidates = []
        broken, staged = self._store.database.skipped(), self._store.database.staged()
        timeless = self._meta.state != self._collection.state or not self._collection.state
        for entry in self._collection.entries:
            comparable = not self._rehash and (entry.mtime_ns != 0 or not timeless)
            known = self._known.get(entry.id)
            if comparable and known and known[:-1] == entry[1:] and known[-1] in self._contents:
                self._unchanged += 1
            elif comparable and _is_same(entry, broken):
                self._broken[entry.id] = broken[entry.id]
            elif comparable and (digest := _staged_digest(entry, staged)) in self._contents:
                self._place(entry, digest)
            else:
                candidates.append(entry)
        return candidates

    def _take(self, result: Encoded) -> None:
        """Note what has become of a candidate."""
        if result.problem:
            self._problems.append(result)
            return
        if result.vector is not None:
            self._encoded += 1
            if result.digest not in self._contents:  # a copy may have been encoded at the same time
                self._contents.add(result.digest)
                self._pending.append((result.entry, result.digest, result.vector))
        self._place(result.entry, result.digest)
        if len(self._pending) >= STAGED_ROWS or time.monotonic() - self._staged_at > STAGED_SECONDS:
            self._stage()

    def _place(self, entry: Entry, digest: str) -> None:
        known, placed = self._known.get(entry.id), record(entry, digest)
        is_lost = entry.id in self._lost
        if known is not None and known[-1] == digest and not is_lost:
            self._unchanged += 1
        if known != placed or is_lost:
            self._placed[entry.id] = placed

    def _stage(self) -> None:
        """Write the vectors that are pending."""
        self._staged_at = time.monotonic()
        if self._pending:
            vectors = np.stack([vector for _, _, vector in self._pending])
            files = {entry.id: record(entry, digest) for entry, digest, _ in self._pending}
            self._store.append(vectors, [digest for _, digest, _ in self._pending], files)
            self._pending = []

    def _removed(self) -> list[str]:
        """Images that leave the index: gone, broken now, or with a damaged vector that could not be made again."""
        present = {entry.id for entry in self._collection.entries}
        gone = [path for path in self._known if path not in present and self._is_gone(path)]
        broken = [row.entry.id for row in self._problems if row.entry.id in self._known and not row.transient]
        leaving = {*gone, *broken}
        not_repaired = (path for path in sorted(self._lost - self._placed.keys() - leaving))
        return [*gone, *broken, *(path for path in not_repaired if self._known[path][-1] not in self._contents)]

    def _is_gone(self, path: str) -> bool:
        """Nothing is known of what lies in a folder that cannot be read just now."""
        if not isinstance(self._collection, FolderCollection):
            return True
        return not any(not folder or path.startswith(f"{folder}/") for folder in self._collection.unreadable)

    def _commit(self, removed: Sequence[str]) -> None:
        database, collection = self._store.database, self._collection
        lasting = (row for row in self._problems if not row.transient)
        self._broken |= {row.entry.id: record(row.entry, row.problem) for row in lasting}
        meta = self._meta._replace(
            source=collection.ref,
            kind=FOLDER if isinstance(collection, FolderCollection) else SOURCE,
            state=collection.state,
            exclude=list(collection.exclude),
        )
        is_new = meta != self._meta or self._broken != database.skipped() or database.staged()
        if self._placed or removed or is_new:
            database.apply(meta, removed, self._placed, self._broken)

    def _report(self, removed: Sequence[str]) -> UpdateReport:
        gone: dict[str, list[str]] = {}
        for path in removed:
            gone.setdefault(self._known[path][-1], []).append(path)
        added, changed, moved, repaired = [], [], [], []
        for path, (*_, digest) in self._placed.items():
            if path not in self._known and gone.get(digest):
                moved.append((gone[digest].pop(0), path))
            elif path not in self._known:
                added.append(path)
            elif self._known[path][-1] != digest:
                changed.append(path)
            elif path in self._lost:
                repaired.append(path)
        moved_from = {old for old, _ in moved}
        skipped = [Skipped(printable(row.entry.id), row.problem) for row in self._problems if row.transient]
        skipped += [Skipped(printable(path), reason) for path, (*_, reason) in self._broken.items()]
        return UpdateReport(
            index=self._store.directory,
            encoder=self._meta.encoder,
            added=tuple(added),
            changed=tuple(changed),
            moved=tuple(moved),
            repaired=tuple(repaired),
            deleted=tuple(path for path in removed if path not in moved_from),
            unchanged=self._unchanged,
            skipped=tuple(sorted([*self._collection.skipped, *skipped], key=lambda row: row.id)),
            encoded=self._encoded,
            total=self._store.database.count(),
            other_files=getattr(self._collection, "other_files", {}),
        )


def _is_same(entry: Entry, records: Records) -> bool:
    """Whether nothing says that a file has changed since it was noted."""
    return entry.id in records and records[entry.id][:-1] == entry[1:]


def _staged_digest(entry: Entry, staged: Records) -> str:
    """The digest of a file that an unfinished update has read, or else no text. What is no file says nothing."""
    is_there = _is_same(entry, staged) or _is_same(entry._replace(inode=0), staged)
    return staged[entry.id][-1] if is_there and entry.mtime_ns != 0 else ""


def import_shards(store: Store, contents: set[str], directory: Path) -> None:
    """Take over the vectors that `opsin embed` has written, as those of an unfinished update: the next update encodes
    nothing that is among them. `contents` are the digests of what has a vector, to which theirs are added.

    Raises ConfigError when they were made by another encoder, CheckpointError when they are damaged.
    """
    manifest, meta = read_manifest(directory), store.database.meta()
    if (manifest["fingerprint"], manifest["dim"]) != (meta.fingerprint, meta.dim):
        raise ConfigError(
            f"the embeddings in {directory} were made by {manifest['encoder']}, and the index {store.directory} is of "
            f"{meta.encoder}, which is not the same encoder or has other weights; make another index"
        )
    for info in read_infos(directory, manifest):
        if not is_intact(directory, info):
            raise CheckpointError(
                f"shard {info.number} in {directory} is damaged or was changed just now; run 'opsin embed' again"
            )
        rows, vectors = read_rows(directory, info.number), read_vectors(directory, info.number, meta.dim)
        for start in range(0, len(rows), BLOCK_ROWS):
            part = rows[start : start + BLOCK_ROWS]
            new = {row.digest: start + place for place, row in enumerate(part) if row.digest not in contents}
            contents.update(new)
            # On some shared file systems each machine sees other inodes.
            files = {row.entry.id: record(row.entry._replace(inode=0), row.digest) for row in part}
            store.append(vectors[list(new.values())], list(new), files)
