"""What embedding a collection consists of: one task a shard, which any process can do by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from opsin.domain import watch_of
from opsin.encoders.base import ImageEncoder, input_size
from opsin.encoders.fingerprint import fingerprint
from opsin.images.opening import Skipped
from opsin.search.collection import Collection, Entry
from opsin.search.encoding import encode_entries
from opsin.search.shards import FORMAT_VERSION, EncoderInfo, ShardInfo, ShardRow, path_to_text, write_shard

LoadEncoder = Callable[[], ImageEncoder]
"""Makes the encoder; worker processes call it as well, so it has to be picklable."""


@dataclass(frozen=True)
class Task:
    """One shard that has to exist."""

    number: int
    entries: Sequence[Entry]
    key: str
    """Stands for the images, the encoder, and the format."""


def plan(collection: Collection, info: EncoderInfo, rows_per_shard: int) -> list[Task]:
    """The shards that a collection has to have."""
    tasks: list[Task] = []
    for start in range(0, len(collection.entries), rows_per_shard):
        entries = collection.entries[start : start + rows_per_shard]
        # Not the inodes: on some shared file systems, each machine sees others.
        rows = [[path_to_text(entry.id), entry.size, entry.mtime_ns, entry.ctime_ns] for entry in entries]
        content = [FORMAT_VERSION, info.encoder, info.fingerprint, info.dim, collection.state, rows]
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        tasks.append(Task(len(tasks), entries, key))
    return tasks


def write_task(
    collection: Collection, out: Path, task: Task, encoder: ImageEncoder, dim: int, *, workers: int | None = None
) -> ShardInfo:
    """Encode the images of one shard and write it."""
    vectors, rows, skipped, try_again = [], [], [], False
    for batch in encode_entries(
        collection, task.entries, encoder.encode_image, size=lambda: input_size(encoder), workers=workers
    ):
        for result in batch:
            if result.vector is None:
                skipped.append(Skipped(path_to_text(result.entry.id), result.problem))
                try_again = try_again or result.transient
            else:
                vectors.append(result.vector)
                rows.append(ShardRow(result.entry, result.digest))
    array = np.stack(vectors) if vectors else np.zeros((0, dim), dtype=np.float16)
    return write_shard(out, task.number, array, rows, key=task.key, skipped=skipped, try_again=try_again)


def encoder_info(encoder: ImageEncoder) -> EncoderInfo:
    """Name, weights and width of an encoder; the width is that of the vector of a blank image."""
    with watch_of(encoder).paused():
        blank = encoder.encode_image([Image.new("RGB", (32, 32))])
    return EncoderInfo(encoder.name, fingerprint(encoder), blank.shape[1])
