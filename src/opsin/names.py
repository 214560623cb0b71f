"""Names of files and classes: when two of them are equal, and how they are printed.

A name may hold newlines, terminal codes, or bytes that are no text (PEP 383).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

JOINERS = "\u200c\u200d"
"""Invisible, and part of the writing of many languages and of emoji."""


def name_key(name: str) -> str:
    """What two names share that people read as equal: Unicode form, letter case and surrounding blanks do not count.

    This is canonical caseless matching (The Unicode Standard, section 3.13, D145) of the stripped name.
    """
    decomposed = unicodedata.normalize("NFD", name.strip())
    return unicodedata.normalize("NFC", decomposed.casefold())


def one_spelling(names: Iterable[str]) -> dict[str, str]:
    """For each name, the one spelling of all names that read as equal to it: the most frequent, without blanks around
    it; of several the first in order of characters."""
    counts = Counter(names)
    spellings: dict[str, Counter[str]] = {}
    for name, count in counts.items():
        spellings.setdefault(name_key(name), Counter())[name.strip()] += count
    chosen = {key: min(found, key=lambda name: (-found[name], name)) for key, found in spellings.items()}
    return {name: chosen[name_key(name)] for name in counts}


def find_equal(name: str, known: Sequence[str]) -> int | None:
    """The place of a name among `known`: of exactly this one, else of the only one that reads as equal to it."""
    if name in known:
        return known.index(name)
    equal = [place for place, other in enumerate(known) if name_key(other) == name_key(name)]
    return equal[0] if len(equal) == 1 else None


def printable(name: str) -> str:
    """The name for people and terminals: control characters and undecodable bytes as backslash escapes."""
    return "".join(char if _is_shown(char) else char.encode("unicode_escape").decode() for char in name)


def _is_shown(char: str) -> bool:
    return char.isprintable() or char in JOINERS or unicodedata.category(char) == "Zs"
