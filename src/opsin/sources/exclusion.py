"""Patterns that exclude images from a source: what `--exclude` takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

import tyro

from opsin.errors import ConfigError
from opsin.names import name_key

Patterns = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PATTERN")]
"""The type of an option or setting `exclude`."""


class Exclusion:
    """Patterns for names of files and folders (`thumbs`, `*.gif`, `cat_?`) and for the ends of their paths
    (`2019/raw`); one that begins with `/` is for a whole path from the root of the source. `*` stands for anything but
    `/`. Names are compared as people read them.

    What is in a folder that a pattern fits is excluded with it. `counts` says how often each pattern has been of use.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """Raises ConfigError for a pattern that is empty."""
        self.counts: Counter[str] = Counter()
        self._patterns = [(_cleaned(pattern), pattern) for pattern in dict.fromkeys(patterns)]

    def covers(self, path: str) -> bool:
        """Whether a pattern fits a path relative to the root, which has `/` between its parts."""
        if not self._patterns:
            return False
        named = PurePosixPath("/" + name_key(path))
        for cleaned, pattern in self._patterns:
            if named.match(cleaned):
                self.counts[pattern] += 1
                return True
        return False

    def covers_part(self, path: str) -> bool:
        """Whether a pattern fits a path or a folder that it lies in."""
        parts = path.split("/")
        return any(self.covers("/".join(parts[:count])) for count in range(1, len(parts) + 1))

    def report(self) -> dict[str, str]:
        """What is to be said of each pattern, once it has been asked of everything."""
        counts = {pattern: self.counts[pattern] for _, pattern in self._patterns}
        return {
            pattern: f"this pattern excludes {count or 'nothing'}" + (" files and folders" if count > 1 else "")
            for pattern, count in counts.items()
        }


def _cleaned(pattern: str) -> str:
    cleaned = name_key(pattern).removeprefix("./").removeprefix("**/").rstrip("/")
    if not cleaned:
        raise ConfigError(f"the pattern {pattern!r} says nothing to exclude; give a name such as thumbs or *.gif")
    return cleaned
