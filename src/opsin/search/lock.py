"""One writer of an index at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from opsin.errors import CheckpointError, ConfigError

LOCK = ".lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The only writer of an index. Raises ConfigError when there is another one."""
    lock = FileLock(path / LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another process is updating the index {path}; wait for it") from error
    except OSError as error:
        raise CheckpointError(f"the index {path} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
