"""Downloading public data: with a checksum, continued where it stopped, and never half there."""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from opsin.errors import DataError, OfflineError
from opsin.runtime import is_offline

CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A public file and the MD5 that its publisher states for it."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def download(remote: RemoteFile, directory: Path, *, quiet: bool = False) -> Path:
    """Fetch a file into `directory` unless it is there; returns its path.

    What has arrived is kept in `NAME.part`, and a later call goes on from there. The file gets its name only when its
    checksum is right. Raises OfflineError without network, DataError when the content is not what was expected.
    """
    target = directory / remote.name
    if target.is_file() and _md5(target) == remote.md5:
        return target
    if is_offline():
        raise OfflineError(_help(remote, directory, "this run is offline (--offline, OPSIN_OFFLINE or HF_HUB_OFFLINE)"))
    directory.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(remote.url, part, quiet=quiet)
    except urllib.error.HTTPError as error:
        raise OfflineError(_help(remote, directory, f"the server answered {error.code} {error.reason}")) from error
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise OfflineError(_help(remote, directory, f"the connection failed ({reason})")) from error
    if _md5(part) != remote.md5:
        part.unlink()
        raise DataError(
            f"{remote.url} gave a file with another checksum than its publisher states; it was deleted, try again"
        )
    os.replace(part, target)
    return target


def extract(archive: Path, directory: Path) -> None:
    """Unpack a tar archive; entries that would land outside `directory` are refused by the tar filter `data`."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive} cannot be unpacked into {directory}: {error}") from error


def _fetch(url: str, part: Path, *, quiet: bool) -> None:
    """Append what is still missing to `part`; a server that cannot continue sends everything again."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is missing; the checksum will tell whether that is so
            raise
        return
    with response:
        continued = response.status == 206
        size = int(response.headers.get("Content-Length") or 0)
        with open(part, "ab" if continued else "wb") as file:
            done = start if continued else 0
            _copy(response, file, done, done + size, part.name.removesuffix(".part"), quiet)


def _copy(response: BinaryIO, file: BinaryIO, done: int, total: int, name: str, quiet: bool) -> None:
    with tqdm(desc=name, initial=done, total=total or None, unit="B", unit_scale=True, disable=quiet) as bar:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _help(remote: RemoteFile, directory: Path, reason: str) -> str:
    return (
        f"{remote.name} could not be downloaded: {reason}. Fetch {remote.url} where there is a network "
        f"and put it into {directory}; the command goes on from there. The source `emoji` needs no download."
    )
