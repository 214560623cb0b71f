"""Which sources there are, and getting one ready before it is used: building the emoji cache, downloading data sets.

Downloads have a checksum, go on where they stopped, and are never half there.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from opsin.config import nearest_name
from opsin.errors import DataError, OfflineError, system_errors_as
from opsin.files import atomic_write
from opsin.images.opening import Skipped
from opsin.progress import Progress, working
from opsin.results import Table
from opsin.runtime import is_offline
from opsin.sources import cifar10, emoji
from opsin.sources.parquet_files import find_parquet

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class RemoteFile:
    """A public file and the MD5 that its publisher states for it."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def download(remote: RemoteFile, directory: Path, *, progress: Progress | None = None) -> Path:
    """Fetch a file into `directory` unless it is there; returns its path.

    What has arrived is kept in `NAME.part`, and a later call goes on from there, as this one does when the connection
    drops after it brought something. The file gets its name only when its checksum is right. Raises
    OfflineError without network, DataError when the content is not what was expected or cannot be written, and
    Cancelled.
    """
    target = directory / remote.name
    if target.is_file() and _md5(target) == remote.md5:
        return target
    if is_offline():
        raise OfflineError(_help(remote, directory, "this run is offline (--offline, OPSIN_OFFLINE or HF_HUB_OFFLINE)"))
    part = target.with_name(target.name + ".part")
    with system_errors_as(DataError, f"{part} cannot be written", "; what has arrived is kept"):
        directory.mkdir(parents=True, exist_ok=True)
        # A second process waits here, and then finds the file.
        with FileLock(target.with_name(target.name + ".lock")):
            if not (target.is_file() and _md5(target) == remote.md5):
                _fetch_all(remote, part, progress=progress)
                _put_in_place(remote, part, target)
    return target


def extract(archive: Path, directory: Path) -> None:
    """Unpack the regular files of a tar archive, each whole or not at all; links and devices are left out.

    Raises DataError when the archive is damaged or has a file that would land outside `directory`.
    """
    root = directory.resolve()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                path = (root / member.name).resolve()
                if not path.is_relative_to(root):
                    raise DataError(f"{archive} was refused: its file {member.name!r} would land outside {directory}")
                data = content.read()
                with atomic_write(path) as file:
                    file.write(data)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked into {directory}: {error}") from error


def _fetch_all(remote: RemoteFile, part: Path, *, progress: Progress | None) -> None:
    """Fetch until nothing is missing, as long as every attempt brings something."""
    while True:
        before = _size(part)
        try:
            _fetch(remote.url, part, progress=progress)
            return
        except _ConnectionFailed as error:
            if _size(part) <= before:
                reason = f"{error}; {_size(part):,} bytes have arrived and are kept"
                raise OfflineError(_help(remote, part.parent, reason)) from error


class _ConnectionFailed(Exception):
    """The server could not be reached, refused, or went away; says why."""


def _fetch(url: str, part: Path, *, progress: Progress | None) -> None:
    """Append what is still missing to `part`; a server that cannot continue sends everything again."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing; the checksum will tell whether that is so
            return
        raise _ConnectionFailed(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionFailed(f"the connection failed ({getattr(error, 'reason', None) or error})") from error
    with response:
        continued = response.status == 206
        length = response.headers.get("Content-Length")
        missing = int(length) if length else None
        done = start if continued else 0
        total = None if missing is None else done + missing
        name = part.name.removesuffix(".part")
        with (
            open(part, "ab" if continued else "wb") as file,
            working(progress, name, total, unit="bytes", done=done) as advance,
        ):
            while chunk := _read(response):
                file.write(chunk)
                advance(len(chunk))
                done += len(chunk)
    if total is not None and done < total:
        raise _ConnectionFailed(f"the connection was closed after {done:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionFailed(f"the connection failed ({error})") from error


def _put_in_place(remote: RemoteFile, part: Path, target: Path) -> None:
    if _md5(part) != remote.md5:
        part.unlink()
        raise DataError(
            f"{remote.url} gave a file with another checksum than its publisher states; it was deleted, try again"
        )
    os.replace(part, target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _help(remote: RemoteFile, directory: Path, reason: str) -> str:
    return (
        f"{remote.name} could not be downloaded: {reason}. Fetch {remote.url} where there is a network "
        f"and put it into {directory}; the command goes on from there. The source `emoji` needs no download."
    )


@dataclass(frozen=True)
class NamedSource:
    """A source that has a name of its own: what it is, where it lies when ready, and how to get it there."""

    summary: str
    directory: Callable[[], Path]
    ready: Callable[[], bool]
    prepare: Callable[[Progress | None], None]
    """Takes `progress`."""


CIFAR10 = RemoteFile("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")


def _prepare_emoji(progress: Progress | None) -> None:
    emoji.load_emoji()


def _prepare_cifar10(progress: Progress | None) -> None:
    directory = cifar10.cifar10_directory()
    with system_errors_as(DataError, f"{directory} cannot be written"):
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".prepare.lock"):  # a second process waits here, and then finds everything done
            if not _has_cifar10():
                archive = download(CIFAR10, directory, progress=progress)
                extract(archive, directory)
                archive.unlink()


def _has_cifar10() -> bool:
    """By names only, so that listing sources stays instant: `extract` leaves no half-written files."""
    directory = cifar10.cifar10_directory()
    batches = directory / cifar10.BATCHES_FOLDER
    return all((batches / file).is_file() for file in cifar10.BATCH_FILES) or "train" in find_parquet(directory)


NAMED_SOURCES: dict[str, NamedSource] = {
    "emoji": NamedSource(
        "about 1,900 emoji in two drawing styles, with names and groups; part of the package",
        emoji.cache_directory,
        lambda: (emoji.cache_directory() / "table.json").is_file(),
        _prepare_emoji,
    ),
    "cifar10": NamedSource(
        "60,000 photos of 32 x 32 pixels in ten classes; a download of 170 MB",
        cifar10.cifar10_directory,
        _has_cifar10,
        _prepare_cifar10,
    ),
}


def prepare_source(name: str, *, progress: Progress | None = None) -> Path:
    """Make a named source ready; returns where it lies. Does nothing when it is ready already.

    Raises DataError for a name that is none, and what `download` raises.
    """
    if name not in NAMED_SOURCES:
        near = nearest_name(name, NAMED_SOURCES)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(NAMED_SOURCES)}"
        raise DataError(f"{name!r} is no source that can be prepared; {hint}")
    source = NAMED_SOURCES[name]
    if not source.ready():
        source.prepare(progress)
    return source.directory()


LAYOUTS = (
    ("DIR", "class folders: DIR/CLASS/*.jpg, also below DIR/train, DIR/val, DIR/test"),
    ("DIR", "images directly inside; in any DIR captions in NAME.txt, metadata.jsonl or captions.csv if there are any"),
    (
        "DIR",
        "labels in labels.csv, train.csv, val.csv, metadata.csv or metadata.jsonl; the images anywhere below",
    ),
    ("FILE.csv", "a table that names images, and gives labels, captions or splits; also .tsv and .jsonl"),
    (
        "FILE.parquet",
        "columns image, label, captions as Hugging Face image data sets have them; or a DIR of such files",
    ),
    ("FILE.zip", "any of these layouts in a zip or tar archive (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz)"),
    ("cifar10:DIR", "CIFAR-10 in DIR, as torchvision keeps it or as train.parquet and test.parquet"),
    ("coco:DIR", "COCO captions: DIR/annotations/captions_*.json, and the images that they name anywhere below DIR"),
    ("course-coco:DIR", "the course's captions and image features in HDF5 files; for captioners only"),
)
"""How a source without a name of its own is written, and what is expected there."""


@dataclass(frozen=True)
class SourceList:
    """The sources that opsin can read. A row has name, summary, whether it is ready, and the directory."""

    rows: tuple[tuple[str, str, bool, str], ...]
    skipped: tuple[Skipped, ...] = ()

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        keys = ("source", "summary", "ready", "directory")
        return {
            "sources": [dict(zip(keys, row, strict=True)) for row in self.rows],
            "layouts": list(map(list, LAYOUTS)),
        }

    def tables(self) -> list[Table]:
        """A row for each source, and one for each layout."""
        rows = [(name, what, "ready" if ready else f"opsin data prepare {name}") for name, what, ready, _ in self.rows]
        return [Table(("source", "what it is", "state"), [*rows, *((name, what, None) for name, what in LAYOUTS)])]


def list_sources() -> SourceList:
    """What `opsin data list` shows."""
    found = NAMED_SOURCES.items()
    return SourceList(tuple((name, source.summary, source.ready(), str(source.directory())) for name, source in found))
