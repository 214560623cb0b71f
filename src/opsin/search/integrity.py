"""Whether the vectors of an index are those that were written, and the database fits them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from opsin.errors import CheckpointError
from opsin.names import printable
from opsin.search.database import Database, Known, Shard
from opsin.search.shards import has_vectors


def damaged_shards(directory: Path, database: Database, images: Iterable[Known]) -> set[int]:
    """Numbers of the shards whose vectors are lost or altered, or whose rows do not all belong to one image or none.

    `images` are those of the database.
    """
    shards = database.shards()
    rows: dict[int, list[int]] = defaultdict(list)
    for known in images:
        rows[known.place.shard].append(known.place.row)
    for number, row, _ in database.tombstones():
        rows[number].append(row)
    return {
        number
        for number in shards.keys() | rows.keys()
        if number not in shards
        or sorted(rows[number]) != list(range(shards[number].rows))
        or not has_vectors(directory, number, shards[number].sha256)
    }


def refuse_damaged(directory: Path, database: Database, shards: Iterable[Shard]) -> None:
    """Raise CheckpointError for a shard whose vectors are lost or altered.

    A file is read once a process, and again when its status has changed.
    """
    for shard in shards:
        if not has_vectors(directory, shard.number, shard.sha256, trust_status=True):
            raise damage(directory, database, f"the vectors in shard {shard.number} are lost or altered")


def damage(directory: Path, database: Database, what: str) -> CheckpointError:
    """The error that says what is damaged, and which command mends it."""
    command = update_command(directory, database)
    return CheckpointError(
        f"the index {directory} is damaged: {what}; run '{command}', which encodes the images concerned again"
    )


def update_command(directory: Path, database: Database) -> str:
    """What brings the index up to date with its source."""
    return f"opsin index {shlex.quote(printable(database.meta().source))} --out {shlex.quote(str(directory))}"
