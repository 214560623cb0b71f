"""Names of files for people: a name may hold newlines, terminal codes, or bytes that are no text (PEP 383)."""

from __future__ import annotations


def printable(name: str) -> str:
    """The name for people and terminals: control characters and undecodable bytes as backslash escapes."""
    return "".join(
        char.encode("unicode_escape").decode() if not char.isprintable() and char != " " else char for char in name
    )
