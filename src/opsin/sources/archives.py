"""Zip and tar archives as sources: unpacked once into the cache, within bounds, and read as a directory.

Nothing lands outside the cache: of an archive only regular files are taken, by names without `..`, and only images,
tables, texts and parquet files. An archive that unpacks to far more than it takes is refused.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import logging
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Container, Generator
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from filelock import FileLock

from opsin.counts import number_of
from opsin.errors import DataError, system_errors_as
from opsin.images.opening import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from opsin.names import name_key, printable
from opsin.runtime import cache_dir
from opsin.sources.image_source import SPLIT_NAMES
from opsin.sources.image_tables import TEXT_SUFFIXES
from opsin.sources.listing import HOUSEKEEPING

logger = logging.getLogger(__name__)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TAKEN_SUFFIXES = {*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, *TEXT_SUFFIXES, ".parquet"}
MOST_EXPANSION, ALWAYS_ALLOWED = 50, 2**30
"""An archive may unpack to this many times its size, and to so many bytes in any case."""
FEWEST_BYTES_PER_FILE, FILES_ALWAYS_ALLOWED = 16, 100_000
"""Beyond so many files, an archive has at least so many bytes for each."""
CHUNK = 2**20
LARGEST_HEADER = 2**24
"""Bytes that are read at once from a tar archive: more is no name of a file."""


class _Member(NamedTuple):
    name: str
    is_file: bool
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether a file is an archive by its name."""
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


def unpack(archive: Path) -> Path:
    """The directory in the cache with the files of an archive, which is unpacked unless it was before.

    It is the one in which the images lie: a single folder that holds all else is passed through. Raises DataError for
    an archive that is damaged, locked by a password, or refused because of what it would unpack to.
    """
    archive = archive.resolve()
    found = archive.stat()
    key = repr((str(archive), found.st_size, found.st_mtime_ns, found.st_ino))
    place = cache_dir() / "archives" / hashlib.sha256(str(archive).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    done = place / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    advice = "; unpack it yourself, and name the directory"
    with system_errors_as(DataError, f"{archive} cannot be unpacked into {place}", advice):
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_suffix(".lock")):  # a second process waits here, and then finds everything done
            if not done.is_dir():
                for old in place.iterdir():  # of another state of the archive, or of a process that was killed
                    shutil.rmtree(old)
                part = Path(tempfile.mkdtemp(dir=place))
                try:
                    _unpack(archive, part)
                    part.rename(done)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    return _root(done)


def _root(directory: Path) -> Path:
    """Pass through folders that hold all else, as long as what they hold has folders or tables of its own."""
    while True:
        entries = list(directory.iterdir())
        if len(entries) != 1 or not entries[0].is_dir() or name_key(entries[0].name) in SPLIT_NAMES:
            return directory
        inner = list(entries[0].iterdir())
        if not any(path.is_dir() or path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet") for path in inner):
            return directory
        directory = entries[0]


def _unpack(archive: Path, directory: Path) -> None:
    size = archive.stat().st_size
    most = max(ALWAYS_ALLOWED, MOST_EXPANSION * size)
    most_files = max(FILES_ALWAYS_ALLOWED, size // FEWEST_BYTES_PER_FILE)
    total = count = 0
    left_out = []
    is_zip = archive.suffix.lower() == ".zip"
    try:
        with closing(_zip_members(archive) if is_zip else _tar_members(archive)) as members:
            for member in members:
                total, count = total + member.size, count + 1  # no more than `size` bytes can be read
                if total > most or count > most_files:
                    raise DataError(
                        f"{archive} was refused: it unpacks to more than {most:,} bytes or {most_files:,} files"
                    )
                name = _safe_name(member.name)
                content = member.open() if member.is_file and name is not None else None
                if name is not None and content is not None:
                    target = directory / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content, open(target, "wb") as file:
                        shutil.copyfileobj(content, file, CHUNK)
                elif _is_of(IMAGE_SUFFIXES, member.name):
                    left_out.append(member.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive} is damaged, or packed in a way that is not read: {error}") from error
    except RuntimeError as error:  # zipfile's, for a file with a password
        raise DataError(f"{archive} is locked by a password; unpack it yourself, and name the directory") from error
    if left_out:
        number, example = number_of(len(left_out), "image"), printable(left_out[0])
        logger.warning("%s of %s left out, such as %s: links, or names that lead elsewhere", number, archive, example)


def _tar_members(archive: Path) -> Generator[_Member, None, None]:
    with _uncompressed(archive) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as tar:  # type: ignore[call-overload]
        for member in tar:
            # The content of a hard link is that of another file of the archive. Symbolic links, devices: not taken.
            yield _Member(member.name, member.isfile() or member.islnk(), member.size, partial(_content, tar, member))
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a cut header for the end
            raise tarfile.ReadError("its end is missing")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes] | None:
    try:
        return tar.extractfile(member)
    except KeyError:  # a link to what is not before it in the archive
        return None


def _uncompressed(archive: Path) -> IO[bytes]:
    with open(archive, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(archive))
    if start.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(archive))
    return cast(IO[bytes], lzma.open(archive)) if start == b"\xfd7zXZ\0" else open(archive, "rb")


class _Bounded:
    """A stream of which tarfile cannot read a header of gigabytes at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self._stream = stream.seek, stream.tell, stream

    def read(self, size: int) -> bytes:
        if size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _zip_members(archive: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield _Member(_zip_name(info), is_file, info.file_size, partial(file.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    r"""The name of a file: some programs write UTF-8 without saying so, and some the `\` of Windows."""
    name = info.filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    return name.replace("\\", "/")


def _safe_name(name: str) -> str | None:
    """A relative path; None for a file of a kind that is not taken, or that would land elsewhere."""
    parts = PurePosixPath(name).parts
    if not _is_of(TAKEN_SUFFIXES, name) or ".." in parts or "\0" in name or re.match("/|[A-Za-z]:", name):
        return None
    return "/".join(parts)


def _is_of(suffixes: Container[str], name: str) -> bool:
    """Whether a file ends in one of these, and is neither hidden nor in a folder that is never looked into."""
    path = PurePosixPath(name)
    hidden = (part.startswith(".") and part != ".." or part.lower() in HOUSEKEEPING for part in path.parts)
    return path.suffix.lower() in suffixes and not any(hidden)
