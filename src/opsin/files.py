"""Writing files so that whoever reads one, at any instant and after any crash, finds it whole."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from opsin.errors import CheckpointError


@contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` in one step when the block ends without an error.

    Whoever reads `path`, at any instant and after any crash, finds either the old content or the new one. What a link
    leads to is replaced, not the link; what is no regular file, such as /dev/stdout, is written to as it is.
    Raises CheckpointError when the file cannot be written, for example on a full disk; `path` is then untouched.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with _open_special(path) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    # Random, because processes in containers that share a file system can have the same id.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}); what it held before is kept"
        ) from error
    finally:
        with suppress(OSError):  # it is gone after the rename; and a folder that refused it never held it
            temporary.unlink()


@contextmanager
def _open_special(path: Path | str) -> Iterator[BinaryIO]:
    try:
        with open(path, "wb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} could not be written ({error.strerror or error})") from error


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
