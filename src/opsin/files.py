"""Writing files so that whoever reads one, at any instant and after any crash, finds it whole.

A file is written under a temporary name beside its place, `.NAME.0123abcd.tmp`, and renamed. While it is written, its
writer holds a lock on it, which ends with the process; so the next writer of the same place can tell what a killed one
has left behind from what another is writing just now, and removes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from opsin.errors import CheckpointError, ConfigError, OpsinError, system_errors_as

NOT_REGULAR = "is no regular file"


class NotRegularFile(OSError):
    """A FIFO, a socket or a device where a file is expected."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` in one step when the block ends without an error.

    Whoever reads `path`, at any instant and after any crash, finds either the old content or the new one. What a link
    leads to is replaced, not the link; what is no regular file, such as /dev/stdout, is written to as it is.
    Raises CheckpointError when the file cannot be written, for example on a full disk; `path` is then untouched.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with system_errors_as(CheckpointError, f"{path} could not be written"), open(path, "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    with system_errors_as(CheckpointError, f"{path} could not be written", "; what it held before is kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _temporary_file(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "posix":
                file.close()  # Windows renames no open file; elsewhere the lock has to last until after the rename
            os.replace(file.name, path)
        sync_directory(path.parent)


@contextmanager
def locked(path: Path, *, busy: str, kind: type[OpsinError], unusable: str) -> Iterator[None]:
    """Hold the lock file `path` in the block; its directory is made.

    Raises ConfigError with the sentence `busy` when another process holds it, and `kind` with `unusable` and the reason
    when it cannot be made.
    """
    from filelock import FileLock, Timeout

    with system_errors_as(kind, unusable):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(busy) from error
    try:
        yield
    finally:
        lock.release()


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file for reading, without waiting: a FIFO, socket or device in its place would answer whenever it likes.

    Raises NotRegularFile for one of those, and the OSError of `open` for what cannot be opened.
    """
    _refuse_special(os.stat(path), path)
    # Something else may have taken its place since; without O_NONBLOCK a FIFO would be waited for.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    try:
        _refuse_special(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def _refuse_special(found: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # of directories, `open` says it itself
        raise NotRegularFile(errno.EINVAL, NOT_REGULAR, os.fspath(path))


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, to be renamed to it within the block; it is removed if it has not been.

    Raises OSError when it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, target.name)
    directory, descriptor = _claimed_directory(target)
    try:
        yield directory
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(directory, ignore_errors=True)


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove the temporary files and directories that killed writers of `directory / name` have left.

    Without a name: those of all files in `directory`, which has to be opsin's own. What another process is writing
    stays. So does what cannot be locked: files on some network file systems, and directories on Windows.
    """
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[0-9a-f]{{1,8}}\.tmp", re.DOTALL)
    with suppress(OSError):
        for found in os.listdir(directory):
            if pattern.fullmatch(found):
                with suppress(OSError):
                    _remove_unless_in_use(directory / found)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error comes of a write for which there was no room: on the disk, in a quota, or in one file."""
    no_room = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(isinstance(link, OSError) and link.errno in no_room for link in chain_of(error))


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that, and so on."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        # Paths may hold bytes that are no text, as lone surrogates (PEP 383); their escapes are also those of JSON.
        file.write(text.encode("utf-8", "backslashreplace"))


def sync_directory(directory: Path) -> None:
    """Make a rename durable: on POSIX that needs an fsync of the directory; Windows has no such call.

    Some network file systems refuse it. The rename is done by then, so this is no failed write.
    """
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _temporary_file(target: Path) -> Iterator[BinaryIO]:
    """A new file beside `target`, locked; it is removed at the end if it has not been renamed."""
    while True:
        with open(_temporary_name(target), "xb") as file:
            if not _is_claimed(Path(file.name), file.fileno()):
                continue
            try:
                with file:  # closing it can fail, and Windows removes no open file
                    yield file
            finally:
                with suppress(OSError):  # it is gone after the rename
                    os.unlink(file.name)
            return


def _claimed_directory(target: Path) -> tuple[Path, int | None]:
    """A new directory beside `target` with the descriptor that holds its lock, where directories can be opened."""
    while True:
        directory = _temporary_name(target)
        directory.mkdir()
        if os.name != "posix":
            return directory, None
        descriptor = os.open(directory, os.O_RDONLY)
        if _is_claimed(directory, descriptor):
            return directory, descriptor
        os.close(descriptor)


def _temporary_name(target: Path) -> Path:
    # Random, because processes in containers that share a file system can have the same id.
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _is_claimed(temporary: Path, descriptor: int) -> bool:
    """Lock what has just been created; False if another process took it for a leftover before it was locked."""
    try:
        _lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks, so nobody removes anything
        return True
    return temporary.exists()


def _remove_unless_in_use(path: Path) -> None:
    """Raises OSError, BlockingIOError among them, when the path is in use, or when that cannot be told."""
    if os.name != "posix":
        path.unlink()  # which Windows refuses for open files
        return
    is_directory = path.is_dir() and not path.is_symlink()
    access = os.O_RDONLY if is_directory else os.O_RDWR  # NFS locks only what is open for writing
    descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        _lock(descriptor)
        if is_directory:
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Hold a file or directory for as long as it is open. Raises BlockingIOError when someone else does."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
