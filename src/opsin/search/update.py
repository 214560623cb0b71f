"""Bringing an index up to date with its collection, without encoding anything twice.

Encoded images go to disk at once, in shards that the database does not know yet; it learns of all of them in one
transaction at the end. So whoever searches meanwhile sees the index as it was, and so does everyone after an update
that failed; and the next update finds the shards of one that was interrupted, and goes on from there. Images of damaged
shards are encoded again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from opsin.errors import OpsinError
from opsin.files import remove_leftovers
from opsin.images.opening import Skipped
from opsin.names import printable
from opsin.progress import Progress, working
from opsin.search.collection import Collection, Entry, FolderCollection
from opsin.search.database import FOLDER, SOURCE, Changes, Database, Known, Place, Shard
from opsin.search.encoding import Encode, Encoded, InputSize, encode_entries
from opsin.search.integrity import damaged_shards
from opsin.search.paths import path_to_text
from opsin.search.results import UpdateReport
from opsin.search.shards import (
    ShardRow,
    is_intact,
    read_info,
    read_rows,
    read_vectors,
    remove_shard,
    shard_numbers,
    write_shard,
)

STAGED_ROWS, STAGED_SECONDS = 512, 120.0
"""Encoded images go to disk when there are so many, or after so long: what a crash can cost, at most."""


@dataclass
class _Difference:
    """What the collection and the index do not have in common."""

    candidates: list[Entry] = field(default_factory=list)
    """To be read: new, perhaps changed, or without a vector."""
    gone: list[Known] = field(default_factory=list)
    broken: dict[str, tuple[Entry, str]] = field(default_factory=dict)
    """Known to be broken, and still the same file."""
    unchanged: int = 0


@dataclass
class _Outcome:
    """What has become of the candidates."""

    placed: list[Known] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Images of the index that are broken now."""
    problems: list[Encoded] = field(default_factory=list)
    encoded: int = 0
    same: int = 0
    """Images whose content turned out to be as before."""


class Update:
    """One update; the caller holds the lock of the index."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        collection: Collection,
        encode: Encode,
        input_size: InputSize,
        *,
        rehash: bool = False,
    ) -> None:
        """With `rehash` the content of all files is read, also where nothing says that they have changed."""
        self._directory, self._database, self._collection = directory, database, collection
        self._encode, self._input_size, self._rehash = encode, input_size, rehash
        self._meta = database.meta()
        self._known = database.images()
        self._damaged = damaged_shards(directory, database, self._known.values())
        lost = [path for path, known in self._known.items() if known.place.shard in self._damaged]
        self._lost = {path: self._known.pop(path) for path in lost}
        """Images whose vectors are damaged."""
        self._new_shards: dict[int, Shard] = {}
        self._staged: dict[int, list[ShardRow]] = {}
        self._free: dict[str, list[tuple[Place, str | None]]] = {}
        """Rows that an image may take over, by content; with the path of a deleted file."""
        self._taken: set[Place] = set()
        self._pending: list[tuple[Entry, str, np.ndarray]] = []
        self._staged_at = time.monotonic()
        self._outcome = _Outcome()

    def run(self, *, progress: Progress | None = None) -> UpdateReport:
        remove_leftovers(self._directory)
        self._collect_leftovers()
        difference = self._compare()
        for known in difference.gone:
            self._free.setdefault(known.digest, []).append((known.place, known.entry.id))
        candidates = self._adopt_staged(difference.candidates)
        try:
            self._place_all(candidates, progress)
        except BaseException:
            with suppress(OpsinError):  # such as a full disk, which may be why the update ends
                self._stage()
            raise
        self._stage()
        self._commit(difference)
        return self._report(difference)

    def _place_all(self, candidates: Sequence[Entry], progress: Progress | None) -> None:
        """Read and encode what is new or changed."""
        encode, is_known, size = self._encode, self._has_vector, self._input_size
        with working(progress, "indexing", len(candidates)) as advance:
            for batch in encode_entries(self._collection, candidates, encode, is_known, size=size):
                for result in batch:
                    self._place(result)
                advance(len(batch))

    def _collect_leftovers(self) -> None:
        """Shards of an interrupted update are used, those that compaction has replaced are removed."""
        live = self._database.shards()
        for number in shard_numbers(self._directory):
            if number in live:
                continue
            info = read_info(self._directory, number)
            is_old = number < self._meta.next_shard
            if is_old or info is None or info.key != self._meta.shard_key or not is_intact(self._directory, info):
                remove_shard(self._directory, number)
                continue
            self._staged[number] = read_rows(self._directory, number)
            self._new_shards[number] = Shard(number, info.rows, info.vectors_sha256)

    def _compare(self) -> _Difference:
        difference = _Difference()
        broken = self._database.skipped()
        timeless = self._meta.state != self._collection.state or not self._collection.state
        for entry in self._collection.entries:
            known = self._known.get(entry.id)
            comparable = not self._rehash and (entry.mtime_ns != 0 or not timeless)
            if known is not None and known.entry == entry and comparable:
                difference.unchanged += 1
            elif entry.id in broken and broken[entry.id][0] == entry and comparable:
                difference.broken[entry.id] = broken[entry.id]
            else:
                difference.candidates.append(entry)
        present = {entry.id for entry in self._collection.entries}
        difference.gone = [known for path, known in self._known.items() if path not in present and self._is_gone(path)]
        return difference

    def _is_gone(self, path: str) -> bool:
        """Nothing is known of what lies in a folder that cannot be read just now."""
        if not isinstance(self._collection, FolderCollection):
            return True
        return not any(not folder or path.startswith(f"{folder}/") for folder in self._collection.unreadable)

    def _adopt_staged(self, candidates: Sequence[Entry]) -> list[Entry]:
        """Give files that an interrupted update has encoded their vectors; the others come back."""
        encoded = {
            row.entry: (row.digest, Place(number, position))
            for number, rows in self._staged.items()
            for position, row in enumerate(rows)
            if row.entry.mtime_ns != 0
        }
        remaining = []
        for entry in candidates:
            if entry in encoded:
                digest, place = encoded[entry]
                self._take(entry, digest, place)
            else:
                remaining.append(entry)
        for number, rows in self._staged.items():
            for position, row in enumerate(rows):
                if Place(number, position) not in self._taken:
                    self._free.setdefault(row.digest, []).append((Place(number, position), None))
        return remaining

    def _has_vector(self, digest: str) -> bool:
        return digest in self._free or self._place_of(digest) is not None

    def _place_of(self, digest: str) -> Place | None:
        return self._database.place_of(digest, except_in=self._damaged)

    def _place(self, result: Encoded) -> None:
        """Give an image its row: its own, one that is free, or a new one."""
        entry, digest = result.entry, result.digest
        known = self._known.get(entry.id)
        if result.problem:
            self._outcome.problems.append(result)
            if known is not None and not result.transient:
                self._outcome.lost.append(entry.id)
        elif known is not None and known.digest == digest:
            self._outcome.same += 1
            if known.entry != entry:
                self._outcome.placed.append(known._replace(entry=entry))
        elif result.vector is not None:
            self._outcome.encoded += 1
            self._append(entry, digest, result.vector)
        elif (free := self._free_row(digest)) is not None:
            place, old_path = free
            self._take(entry, digest, place)
            if old_path is not None and known is None:
                self._outcome.moved.append((old_path, entry.id))
        else:
            place_of_copy = self._place_of(digest) or self._place_taken(digest)
            vector = read_vectors(self._directory, place_of_copy.shard, self._meta.dim)[place_of_copy.row]
            self._append(entry, digest, np.array(vector))

    def _free_row(self, digest: str) -> tuple[Place, str | None] | None:
        candidates = self._free.get(digest, [])
        while candidates:
            place, path = candidates.pop(0)
            if place not in self._taken:
                return place, path
        # The row of a tombstone is as free, and nobody has taken it yet.
        for place in self._database.dead_places(digest):
            if place not in self._taken and place.shard not in self._damaged:
                return place, None
        return None

    def _place_taken(self, digest: str) -> Place:
        """Where a staged vector with this content lies, which another image has taken in this update."""
        return next(known.place for known in self._outcome.placed if known.digest == digest)

    def _take(self, entry: Entry, digest: str, place: Place) -> None:
        self._taken.add(place)
        self._outcome.placed.append(Known(entry, digest, place))

    def _append(self, entry: Entry, digest: str, vector: np.ndarray) -> None:
        self._pending.append((entry, digest, vector))
        if len(self._pending) >= STAGED_ROWS or time.monotonic() - self._staged_at > STAGED_SECONDS:
            self._stage()

    def _stage(self) -> None:
        """Write what is pending as a shard."""
        self._staged_at = time.monotonic()
        if not self._pending:
            return
        number = self._next_shard()
        rows = [ShardRow(entry, digest) for entry, digest, _ in self._pending]
        vectors = np.stack([vector for _, _, vector in self._pending])
        info = write_shard(self._directory, number, vectors, rows, key=self._meta.shard_key)
        self._staged[number] = rows
        self._new_shards[number] = Shard(number, info.rows, info.vectors_sha256)
        for position, row in enumerate(rows):
            self._take(row.entry, row.digest, Place(number, position))
        self._pending = []

    def _next_shard(self) -> int:
        return max([self._meta.next_shard - 1, *self._staged]) + 1

    def _not_repaired(self) -> list[str]:
        """Images whose vectors are damaged and that have gone or cannot be read, so that they leave the index."""
        placed = {known.entry.id for known in self._outcome.placed}
        return [path for path in self._lost if path not in placed]

    def _commit(self, difference: _Difference) -> None:
        outcome = self._outcome
        removed = [known.entry.id for known in difference.gone] + outcome.lost
        broken = dict(difference.broken)
        broken |= {
            result.entry.id: (result.entry, result.problem) for result in outcome.problems if not result.transient
        }
        left = [self._known[path] for path in removed]
        left += [
            known for new in outcome.placed if (known := self._known.get(new.entry.id)) and known.place != new.place
        ]
        dead = {known.place: known.digest for known in left if known.place not in self._taken}
        for number, rows in self._staged.items():
            unused = ((Place(number, position), row.digest) for position, row in enumerate(rows))
            dead |= {place: digest for place, digest in unused if place not in self._taken}
        kind = FOLDER if isinstance(self._collection, FolderCollection) else SOURCE
        meta = self._meta._replace(
            source=self._collection.ref,
            kind=kind,
            state=self._collection.state,
            next_shard=self._next_shard(),
            exclude="\n".join(map(path_to_text, self._collection.exclude)),
        )
        changes = Changes(
            meta={
                "source": path_to_text(meta.source),
                "kind": meta.kind,
                "state": meta.state,
                "exclude": meta.exclude,
                "next_shard": str(meta.next_shard),
            },
            new_shards=list(self._new_shards.values()),
            dropped_shards=sorted(self._damaged),
            removed=removed + self._not_repaired(),
            images=outcome.placed,
            dead=dead,
            revived=sorted(self._taken),
            skipped=broken,
        )
        is_new = meta != self._meta or broken != self._database.skipped()
        if outcome.placed or removed or self._staged or self._damaged or is_new:
            self._database.apply(changes)
        for number in self._damaged:
            remove_shard(self._directory, number)

    def _report(self, difference: _Difference) -> UpdateReport:
        outcome = self._outcome
        moved_from = {old for old, _ in outcome.moved}
        moved_to = {new for _, new in outcome.moved}
        added, changed, repaired = [], [], []
        for new in outcome.placed:
            known = self._known.get(new.entry.id) or self._lost.get(new.entry.id)
            if new.entry.id in self._lost and known is not None and known.digest == new.digest:
                repaired.append(new.entry.id)
            elif known is not None and known.digest != new.digest:
                changed.append(new.entry.id)
            elif known is None and new.entry.id not in moved_to:
                added.append(new.entry.id)
        skipped = [Skipped(printable(result.entry.id), result.problem) for result in outcome.problems]
        skipped += [Skipped(printable(path), reason) for path, (_, reason) in difference.broken.items()]
        return UpdateReport(
            added=tuple(added),
            changed=tuple(changed),
            moved=tuple(outcome.moved),
            repaired=tuple(repaired),
            deleted=(
                *(known.entry.id for known in difference.gone if known.entry.id not in moved_from),
                *outcome.lost,
                *self._not_repaired(),
            ),
            unchanged=difference.unchanged + outcome.same,
            skipped=tuple(sorted([*self._collection.skipped, *skipped], key=lambda row: row.id)),
            encoded=outcome.encoded,
            total=self._database.count(),
            other_files=getattr(self._collection, "other_files", {}),
        )
