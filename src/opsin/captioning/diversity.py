"""How much captions of many images differ, and how much each repeats itself: what tells that a captioner has collapsed.

distinct-1 and distinct-2 are those of Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
Models", section 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Words = Sequence[str]

LONGEST_PERIOD = 4
MUCH_REPETITION = 0.25
"""Share of repeated words, beyond that of the references, from which captions repeat themselves."""
FEW_CAPTIONS = 0.2
FEW_PAIRS = 0.1
"""Shares of the references' different captions, and of their distinct-2, below which captions hardly differ. Captioners
that work well have from half of the former on, and a quarter of the latter."""


@dataclass(frozen=True)
class Diversity:
    """Of `count` captions: `distinct_captions` is the number of different ones, `distinct1` and `distinct2` are the
    numbers of different words and pairs of words, each divided by that of all words and pairs.

    `repetition` is the share of words that end a run of 1 to 4 words which stands directly before itself: 0.75 in "a a
    a a", 0.5 in "a man a man a man", and nearly 0 in what people write.
    """

    count: int
    distinct_captions: int
    distinct1: float
    distinct2: float
    repetition: float


def diversity(captions: Sequence[Words]) -> Diversity:
    """The diversity of captions, each a list of words."""
    words = [word for caption in captions for word in caption]
    pairs = [pair for caption in captions for pair in zip(caption, caption[1:], strict=False)]
    return Diversity(
        count=len(captions),
        distinct_captions=len({tuple(caption) for caption in captions}),
        distinct1=len(set(words)) / max(len(words), 1),
        distinct2=len(set(pairs)) / max(len(pairs), 1),
        repetition=sum(map(_repeated_words, captions)) / max(len(words), 1),
    )


def collapse(own: Diversity, people: Diversity) -> str | None:
    """Why captions of several images count as collapsed beside one caption by people for each of these images; None
    where they do not."""
    if own.count < 2:
        return None
    if own.distinct_captions == 1:
        return f"all {own.count} images got the same caption"
    if own.repetition > people.repetition + MUCH_REPETITION:
        return (
            f"{own.repetition:.0%} of the words repeat the words directly before them, and {people.repetition:.0%} in "
            "people's captions"
        )
    if own.distinct_captions < FEW_CAPTIONS * people.distinct_captions:
        return (
            f"{own.count} images got {own.distinct_captions} different captions, and people wrote "
            f"{people.distinct_captions}"
        )
    if 0 < own.distinct2 < FEW_PAIRS * people.distinct2:
        return f"distinct-2 is {own.distinct2:.3f}, and {people.distinct2:.3f} in people's captions"
    return None


def _repeated_words(words: Words) -> int:
    return sum(
        any(
            end >= 2 * period and words[end - period : end] == words[end - 2 * period : end - period]
            for period in range(1, LONGEST_PERIOD + 1)
        )
        for end in range(1, len(words) + 1)
    )
