"""Numbers of things in sentences, whose grammar depends on whether it is one."""

from __future__ import annotations


def number_of(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 file`, `12,000 files`; `plural` where that is not the noun with an s."""
    return f"{count:,} {agree(count, noun, plural or f'{noun}s')}"


def agree(count: int, one: str, several: str) -> str:
    """The form of a word that goes with so many things, such as is or are."""
    return one if count == 1 else several


def none_of(count: int, noun: str) -> str:
    """The subject of a sentence that is true of no thing: `none of the 3 files`, `not even the only file`."""
    return f"not even the only {noun}" if count == 1 else f"none of the {number_of(count, noun)}"


def human_bytes(count: int) -> str:
    """A size in bytes with a decimal unit: 1500 is `1.5 kB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
