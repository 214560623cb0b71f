"""Embedding a collection into shards: on one machine, on many that know nothing of each other, or with Ray Data.

The sorted list of images is cut into shards of equal size. A shard depends on its own images and the encoder only, so
that every way of working gives the same bytes, an interrupted run goes on with the shards that are missing, and a
finished one has nothing left to do, unless a file could not be read just then. Each shard is a task, which any process
can do by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from opsin.counts import none_of
from opsin.domain import watch_of
from opsin.encoders.base import ImageEncoder, input_size
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import ConfigError, DataError
from opsin.files import remove_leftovers
from opsin.images.opening import Skipped
from opsin.progress import Progress, tracked
from opsin.results import Table, skipped_document
from opsin.search.collection import Collection, Entry, open_collection
from opsin.search.encoding import encode_entries
from opsin.search.shards import (
    FORMAT_VERSION,
    MANIFEST,
    EncoderInfo,
    ShardInfo,
    ShardRow,
    is_intact,
    path_to_text,
    read_info,
    read_manifest,
    remove_shard,
    shard_numbers,
    write_manifest,
    write_shard,
)

ROWS_PER_SHARD = 8192
Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class EmbedReport:
    """What an `embed` did. `rows` and `skipped` are of all its shards, the kept ones included."""

    out: Path
    written: int
    kept: int
    rows: int
    skipped: tuple[Skipped, ...]
    shard_count: int
    """Shards of the whole collection, including those of other processes."""
    complete: bool
    """All of them are there."""
    encoder: ImageEncoder
    """Of this process, which has encoded nothing itself where Ray did."""

    def document(self) -> dict[str, Any]:
        """The counts as JSON types."""
        return {
            "out": str(self.out),
            "model": self.encoder.name,
            "shards": self.shard_count,
            "complete": self.complete,
            "written": self.written,
            "kept": self.kept,
            "images": self.rows,
            "skipped": skipped_document(self.skipped),
        }

    def tables(self) -> list[Table]:
        """The counts."""
        counts = {"shards written": self.written, "shards kept": self.kept, "images": self.rows}
        return [Table(("", "count"), [*counts.items(), ("left out", len(self.skipped))])]


def embed(
    source: str | Path,
    out: str | Path,
    load_encoder: LoadEncoder,
    *,
    part: tuple[int, int] = (0, 1),
    exclude: Sequence[str] = (),
    engine: Engine = "local",
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress | None = None,
) -> EmbedReport:
    """Write the shards of a source (a folder of images, or any other data source) that `out` lacks.

    With `part` (i, n) only every n-th shard, from the i-th on, is this process's; i counts from 0 or from 1.
    `exclude` are patterns of images to leave out; see `opsin.sources.exclusion`. Raises
    DataError when no image can be read, ConfigError when `out` is in use for something else, CheckpointError when it
    cannot be written, MissingExtraError for `ray` without Ray.
    """
    index, count = _checked_part(part)
    if rows_per_shard < 1:
        raise ConfigError(f"a shard needs at least one row, not {rows_per_shard}")
    collection, out = open_collection(source, exclude), Path(out)
    encoder = load_encoder()
    info = encoder_info(encoder)
    _refuse_other_content(out, info, collection.ref)
    remove_leftovers(out)
    tasks = plan(collection, info, rows_per_shard)
    mine = [task for task in tasks if task.number % count == index]
    missing = [task for task in mine if not _is_done(out, task)]
    if engine == "ray":
        from opsin.search.ray_engine import write_with_ray

        write_with_ray(collection, out, missing, load_encoder, info.dim)
    else:
        for task in tracked(missing, progress, "embedding", len(missing), unit="shards"):
            write_task(collection, out, task, encoder, info.dim)
    for number in shard_numbers(out):
        if number >= len(tasks) and number % count == index:
            remove_shard(out, number)  # of an earlier, longer list of images
    present = write_manifest(out, info, collection.ref, [task.key for task in tasks])
    return _report(collection, out, mine, len(missing), len(tasks), present, encoder)


def parse_part(text: str) -> tuple[int, int]:
    """`i/n` as two numbers. Raises ConfigError when it is not of that form."""
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"a share of the shards is written i/n, such as 0/8, not {text!r}")
    part = int(match[1]), int(match[2])
    _checked_part(part)
    return part


def _checked_part(part: tuple[int, int]) -> tuple[int, int]:
    """Shares are counted from 0 or from 1: the last of one way of counting is the first of the other."""
    index, count = part
    if count < 1 or not 0 <= index <= count:
        raise ConfigError(f"there is no share {index}/{count}: use 0/n to n-1/n, or 1/n to n/n")
    return index % count, count


def _is_done(out: Path, task: Task) -> bool:
    info = read_info(out, task.number)
    return info is not None and info.key == task.key and not info.try_again and is_intact(out, info)


def _refuse_other_content(out: Path, info: EncoderInfo, source: str) -> None:
    if out.is_file():
        raise ConfigError(f"{out} is a file; name a directory for the embeddings")
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")} - {MANIFEST}
    if others := sorted(name for name in names if not re.fullmatch(r"\d{6,}\.(npy|parquet|json)", name)):
        raise ConfigError(f"{out} holds other files ({', '.join(others[:3])}); choose another directory")
    if not (out / MANIFEST).is_file():
        return
    manifest = read_manifest(out)
    if manifest.get("format") != "opsin-embeddings" or manifest.get("fingerprint") != info.fingerprint:
        raise ConfigError(
            f"{out} holds embeddings made by {manifest.get('encoder')} with other weights than {info.encoder} has; "
            "choose another directory, or remove that one"
        )
    if manifest.get("source") != path_to_text(source):
        raise ConfigError(f"{out} holds the embeddings of {manifest.get('source')}; choose another directory")


def _report(
    collection: Collection,
    out: Path,
    mine: Sequence[Task],
    written: int,
    shard_count: int,
    present: int,
    encoder: ImageEncoder,
) -> EmbedReport:
    infos = [info for task in mine if (info := read_info(out, task.number)) is not None]
    skipped = (*collection.skipped, *(row for info in infos for row in info.skipped))
    rows = sum(info.rows for info in infos)
    is_whole = len(mine) == shard_count  # of a share, all images may well be broken
    if mine and is_whole and rows == 0:
        count = sum(len(task.entries) for task in mine)
        raise DataError(f"{none_of(count, 'image')} can be read; the last: {skipped[-1].reason}")
    complete = present == shard_count
    return EmbedReport(out, written, len(mine) - written, rows, skipped, shard_count, complete, encoder)


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
