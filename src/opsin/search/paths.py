"""Names of files as text: any name that a file system allows can be stored, and turned back into a path.

A name may hold newlines, terminal codes, or bytes that are no UTF-8 (in Python: lone surrogates, PEP 383). And a stored
name may have been changed by someone, so that a path made from it is checked before anything is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

from opsin.errors import DataError
from opsin.names import printable


def path_to_text(path: str) -> str:
    """A relative path as plain Unicode text: control characters, `%` and bytes that are no UTF-8 become `%XX`."""
    return "".join(f"%{_byte(char):02X}" if _needs_escape(char) else char for char in path)


def text_to_path(text: str) -> str:
    """The path of which `path_to_text` made the text."""
    return os.fsdecode(unquote_to_bytes(text))


def contained_path(root: Path, relative: str) -> Path:
    """The file `relative` below `root`, which need not exist.

    Raises DataError when the path is absolute, climbs with `..`, or leads through links to somewhere outside.
    """
    parts = relative.replace("\\", "/").split("/") if os.name == "nt" else relative.split("/")
    path = root / relative
    if not relative or "\0" in relative or Path(relative).is_absolute() or ".." in parts or Path(relative).drive:
        raise DataError(f"the path {printable(relative)!r} does not lie below {printable(str(root))}")
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise DataError(f"{printable(relative)!r} cannot be followed to a file: {error}") from error
    if not inside:
        raise DataError(f"{printable(relative)!r} leads out of {printable(str(root))}, so it was not opened")
    return path


def _needs_escape(char: str) -> bool:
    return char == "%" or ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff"


def _byte(char: str) -> int:
    return ord(char) & 0xFF  # a lone surrogate U+DCXX stands for the byte XX
