"""Making one shard of many small ones, and dropping the rows of images that are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from opsin.search.database import Changes, Database, Known, Place, Shard
from opsin.search.integrity import damage, damaged_shards
from opsin.search.shards import ShardRow, read_vectors, remove_shard, write_shard

FULL_ROWS = 65536
MANY_SHARDS = 16
DEAD_SHARE = 0.3


def is_due(database: Database) -> bool:
    """Whether many shards are far from full, or many rows are of images that are gone, but not all of them are."""
    if database.count() == 0:
        return False
    shards = database.shards()
    dead = len(database.tombstones())
    small = sum(shard.rows < FULL_ROWS // 2 for shard in shards.values())
    return small >= MANY_SHARDS or dead > DEAD_SHARE * sum(shard.rows for shard in shards.values())


def compact(directory: Path, database: Database) -> None:
    """Rewrite all shards that are small or have dead rows; the caller holds the lock of the index.

    The new shards are complete before the database names them, the old ones are removed after it no longer does.
    Raises CheckpointError when the vectors of an old one are damaged.
    """
    meta = database.meta()
    number = meta.next_shard
    shards = database.shards()
    with_dead_rows = {shard for shard, _, _ in database.tombstones()}
    old = [shard for shard, (_, rows, _) in shards.items() if rows < FULL_ROWS // 2 or shard in with_dead_rows]
    images = database.images().values()
    if damaged := damaged_shards(directory, database, images).intersection(old):
        raise damage(directory, database, f"the vectors in shard {min(damaged)} are lost or altered")
    chosen = set(old)
    moving = sorted((known for known in images if known.place.shard in chosen), key=_by_place)
    changes = Changes(dropped_shards=old)
    for start in range(0, len(moving), FULL_ROWS):
        part = moving[start : start + FULL_ROWS]
        vectors = _gather(directory, [known.place for known in part], meta.dim)
        rows = [ShardRow(known.entry, known.digest) for known in part]
        info = write_shard(directory, number, vectors, rows, key=meta.shard_key)
        changes.new_shards.append(Shard(number, info.rows, info.vectors_sha256))
        changes.images += [Known(known.entry, known.digest, Place(number, row)) for row, known in enumerate(part)]
        number += 1
    changes.meta["next_shard"] = str(number)
    database.apply(changes)
    for shard in old:
        remove_shard(directory, shard)


def _by_place(known: Known) -> Place:
    return known.place


def _gather(directory: Path, places: list[Place], dim: int) -> np.ndarray:
    """The vectors float16 (n, D) at places that are sorted."""
    vectors = np.empty((len(places), dim), dtype=np.float16)
    numbers = np.array([place.shard for place in places])
    rows = np.array([place.row for place in places])
    for shard in np.unique(numbers):
        here = numbers == shard
        vectors[here] = read_vectors(directory, int(shard), dim)[rows[here]]
    return vectors
