"""Embeddings on disk: shards of a fixed form, each written whole or not at all, and a manifest over them.

A shard is three files: `000000.npy`, float16 (n, D), rows of length one, which can be memory-mapped;
`000000.parquet`, as many rows with the columns `path` (see `path_to_text`), `size`, `mtime_ns`, `ctime_ns`,
`inode`, `sha256`; and `000000.json`, written last, with the digests of both and the images that were left out. A shard
without this last file does not exist. `manifest.json` lists the shards of a finished or unfinished collection with the
encoder that made them. Equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opsin.errors import CheckpointError
from opsin.files import atomic_write
from opsin.images.opening import Skipped
from opsin.search.collection import Entry

FORMAT_VERSION = 2
"""Version 1 lacks change times and inodes, and has vectors of photos that were turned the wrong way."""
MANIFEST = "manifest.json"
NUMBERS = ("size", "mtime_ns", "ctime_ns", "inode")
SCHEMA = pa.schema([("path", pa.string()), *((name, pa.int64()) for name in NUMBERS), ("sha256", pa.string())])


@dataclass(frozen=True)
class EncoderInfo:
    """Which encoder made the vectors."""

    encoder: str
    """The reference that `opsin.encoders.load` takes."""
    fingerprint: str
    """See `opsin.encoders.fingerprint`."""
    dim: int


@dataclass(frozen=True)
class ShardRow:
    """One row of a shard's table."""

    entry: Entry
    digest: str


@dataclass(frozen=True)
class ShardInfo:
    """What `000000.json` says. `key` stands for everything that the shard was made from."""

    number: int
    key: str
    rows: int
    vectors_sha256: str
    table_sha256: str
    skipped: tuple[Skipped, ...]
    try_again: bool = False
    """Some of what was skipped could not be read just then, though nothing is known to be wrong with it."""


def shard_file(directory: Path, number: int, suffix: str) -> Path:
    """One file of a shard: suffix `npy`, `parquet` or `json`."""
    return directory / f"{number:06d}.{suffix}"


def write_shard(
    directory: Path,
    number: int,
    vectors: np.ndarray,
    rows: Sequence[ShardRow],
    *,
    key: str = "",
    skipped: Sequence[Skipped] = (),
    try_again: bool = False,
) -> ShardInfo:
    """Write float16 vectors (n, D) and their rows as a shard, in place of one of the same number.

    Raises CheckpointError when it cannot be written; then there is no such shard, or still the old one.
    """
    contents = {"npy": _npy_bytes(vectors), "parquet": _parquet_bytes(rows)}
    digests = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    info = ShardInfo(number, key, len(rows), digests[0], digests[1], tuple(skipped), try_again)
    shard_file(directory, number, "json").unlink(missing_ok=True)  # a reader must never see it beside other content
    for suffix, content in contents.items():
        with atomic_write(shard_file(directory, number, suffix)) as file:
            file.write(content)
    _write_json(shard_file(directory, number, "json"), _info_to_json(info))
    return info


def read_info(directory: Path, number: int) -> ShardInfo | None:
    """What a shard says of itself; None when it does not exist or is damaged, so that it has to be made again."""
    try:
        content = json.loads(shard_file(directory, number, "json").read_bytes())
        skipped = tuple(Skipped(row["id"], row["reason"]) for row in content.pop("skipped"))
        info = ShardInfo(number=number, skipped=skipped, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if type(info.rows) is not int or info.rows < 0:
        return None
    return info if all(shard_file(directory, number, suffix).is_file() for suffix in ("npy", "parquet")) else None


def is_intact(directory: Path, info: ShardInfo) -> bool:
    """Whether the files of a shard are those that were written."""
    try:
        table_sha256 = _digest_of(shard_file(directory, info.number, "parquet"))
        vectors_sha256 = _digest_of(shard_file(directory, info.number, "npy"))
    except OSError:
        return False
    return (table_sha256, vectors_sha256) == (info.table_sha256, info.vectors_sha256)


def read_vectors(directory: Path, number: int, dim: int) -> np.ndarray:
    """Memory map float16 (n, D) of a shard. Raises CheckpointError when it is no such array."""
    path = shard_file(directory, number, "npy")
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read; make the embeddings again ({error})") from error
    if vectors.dtype != np.float16 or vectors.ndim != 2 or vectors.shape[1] != dim:
        raise CheckpointError(f"{path} holds {vectors.dtype} {vectors.shape} instead of float16 (n, {dim})")
    return vectors


def read_rows(directory: Path, number: int) -> list[ShardRow]:
    """The table of a shard. Raises CheckpointError when it cannot be read."""
    path = shard_file(directory, number, "parquet")
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()), schema=SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{path} cannot be read; make the embeddings again ({error})") from error
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    return [
        ShardRow(Entry(text_to_path(path), *numbers), digest) for path, *numbers, digest in zip(*columns, strict=True)
    ]


def remove_shard(directory: Path, number: int) -> None:
    """Remove the files of a shard, the one that makes it a shard first."""
    for suffix in ("json", "parquet", "npy"):
        shard_file(directory, number, suffix).unlink(missing_ok=True)


def shard_numbers(directory: Path) -> list[int]:
    """Numbers of all shards of which there is any file."""
    stems = {path.stem for suffix in ("npy", "parquet", "json") for path in directory.glob(f"[0-9]*.{suffix}")}
    return sorted(int(stem) for stem in stems if stem.isdigit())


def write_manifest(directory: Path, info: EncoderInfo, source: str, keys: Sequence[str]) -> int:
    """Write the manifest of a collection whose shard i has to have the key `keys[i]`; returns how many do already.

    Several processes may do this at once, each after its own shards: whoever writes last sees, after writing, all
    shards that are there, and writes again if the manifest lacks any. So no lock is needed, which not every file
    system of a cluster has.
    """
    written: list[ShardInfo] | None = None
    while (present := _present(directory, keys)) != written:
        written = present
        content = {
            "format": "opsin-embeddings",
            "format_version": FORMAT_VERSION,
            "encoder": info.encoder,
            "fingerprint": info.fingerprint,
            "dim": info.dim,
            "source": path_to_text(source),
            "complete": len(written) == len(keys),
            "shard_count": len(keys),
            "rows": sum(shard.rows for shard in written),
            "shards": [_manifest_entry(shard) for shard in written],
        }
        _write_json(directory / MANIFEST, content)
    return len(written or [])


def read_manifest(directory: Path) -> dict[str, Any]:
    """The content of `manifest.json`. Raises CheckpointError when there is none, or of a newer format."""
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory} holds no embeddings: it has no {MANIFEST}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); make the embeddings again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or {"encoder", "fingerprint", "dim", "source", "shards"} - content.keys():
        raise CheckpointError(f"{path} is no manifest of embeddings; make them again")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, and this opsin reads up to {FORMAT_VERSION}; update opsin"
        )
    return content


def read_infos(directory: Path, manifest: Mapping[str, Any]) -> Iterator[ShardInfo]:
    """The shards that a manifest lists, without those that have been removed since."""
    for shard in manifest["shards"]:
        info = read_info(directory, int(shard["name"]))
        if info is not None:
            yield info


def path_to_text(path: str) -> str:
    """A path as plain Unicode text, which Parquet and JSON can hold: control characters, `%` and bytes that are no
    UTF-8 (in Python lone surrogates, PEP 383) become `%XX`."""
    return "".join(f"%{ord(char) & 0xFF:02X}" if _needs_escape(char) else char for char in path)


def text_to_path(text: str) -> str:
    """The path of which `path_to_text` made the text."""
    return os.fsdecode(unquote_to_bytes(text))


def _needs_escape(char: str) -> bool:
    return char == "%" or ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff"


def _present(directory: Path, keys: Sequence[str]) -> list[ShardInfo]:
    found = (read_info(directory, number) for number in range(len(keys)))
    return [info for info in found if info is not None and info.key == keys[info.number]]


def _manifest_entry(info: ShardInfo) -> dict[str, Any]:
    content = _info_to_json(info)
    return {"name": f"{info.number:06d}", **content, "skipped": len(info.skipped)}


def _info_to_json(info: ShardInfo) -> dict[str, Any]:
    return {
        "key": info.key,
        "rows": info.rows,
        "vectors_sha256": info.vectors_sha256,
        "table_sha256": info.table_sha256,
        "skipped": [{"id": row.id, "reason": row.reason} for row in info.skipped],
        "try_again": info.try_again,
    }


def _digest_of(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode("ascii"))


def _npy_bytes(vectors: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(vectors), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _parquet_bytes(rows: Sequence[ShardRow]) -> bytes:
    columns = [
        [path_to_text(row.entry.id) for row in rows],
        *([getattr(row.entry, name) for row in rows] for name in NUMBERS),
        [row.digest for row in rows],
    ]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
