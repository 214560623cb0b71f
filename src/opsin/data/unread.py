"""What a text encoder makes of texts that are not in its words, or too long for it: one report, one warning."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from opsin.errors import DataError
from opsin.runtime import is_first_process

logger = logging.getLogger(__name__)

MOST_NAMED = 3
"""Texts that a message shows."""
LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Unread:
    """Of `total` texts, those that nothing can be read of, and those that are cut after `max_tokens` tokens; a text
    that is there twice counts twice."""

    total: int
    unreadable: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    max_tokens: int = 0

    def message(self, encoder: str, kind: str) -> str | None:
        """What there is to say about texts of this kind (`caption`), in a sentence; None if all is read."""
        parts = []
        if self.unreadable:
            parts.append(f"can read nothing of {self._named(self.unreadable, kind)}")
        if self.cut:
            parts.append(f"reads only the first {self.max_tokens} tokens of {self._named(self.cut, kind)}")
        return f"the text encoder {encoder} " + ", and ".join(parts) if parts else None

    def _named(self, texts: tuple[str, ...], kind: str) -> str:
        if self.total == 1:
            return f"the {kind} {examples(texts)}"
        return f"{len(texts):,} of {self.total:,} {kind}s ({examples(texts)})"


def warn_of_unread(unread: Unread, encoder: str, kind: str, effect: str) -> None:
    """Log what there is to say, if anything, with the `effect` that it has on results."""
    if message := unread.message(encoder, kind):
        logger.warning("%s; %s", message, effect)


def check_captions(unread: Unread, encoder: str, remedy: str) -> None:
    """`warn_of_unread` of the captions of a training set, from the first process of a run.

    Raises DataError, which ends with the `remedy`, when there is nothing to learn from: not one of them can be read.
    """
    if unread.total and len(unread.unreadable) == unread.total:
        raise DataError(
            f"the text encoder {encoder} can read nothing of any of the {unread.total:,} captions "
            f"({examples(unread.unreadable)}); {remedy}"
        )
    if is_first_process():
        warn_of_unread(unread, encoder, "caption", "what is not read has no part in the training")


def examples(texts: Iterable[str]) -> str:
    """The first of the different texts, shortened, for a message."""
    different = list(dict.fromkeys(texts))
    shown = [repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…") for text in different]
    more = f" and {len(different) - MOST_NAMED:,} more" if len(different) > MOST_NAMED else ""
    return ", ".join(shown[:MOST_NAMED]) + more
