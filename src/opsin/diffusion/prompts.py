"""What the small text encoders of opsin make of a text: emoji by their names, and what they leave unread."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

from opsin.data.tokenizer import BpeTokenizer
from opsin.encoders.base import TextEncoder

logger = logging.getLogger(__name__)
MOST_NAMED = 3
"""Prompts that a warning names."""
LONGEST_NAME = 60


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: white space, joiners and the like."""
    return all(char.isspace() or unicodedata.category(char) in ("Cf", "Cc") for char in text)


def spoken(encoder: TextEncoder, texts: Sequence[str]) -> list[str]:
    """The texts with each emoji that the encoder has no tokens for replaced by its name, as `red apple`.

    That is for encoders with a `BpeTokenizer`; others get their texts as they are.
    """
    tokenizer = getattr(encoder, "tokenizer", None)
    if not isinstance(tokenizer, BpeTokenizer) or all(text.isascii() for text in texts):
        return list(texts)
    import emoji

    def name_of(char: str, known: dict[str, Any]) -> str:
        if "en" not in known or tokenizer.knows(char):
            return char
        return " " + known["en"].strip(":").replace("_", " ").replace("-", " ") + " "

    return [" ".join(emoji.replace_emoji(text, name_of).split()) for text in texts]


def warn_of_unread(encoder: TextEncoder, prompts: Sequence[str]) -> None:
    """Log which prompts an encoder with a `BpeTokenizer` can read nothing of, and which only the beginning of."""
    tokenizer = getattr(encoder, "tokenizer", None)
    if not isinstance(tokenizer, BpeTokenizer):
        return
    texts = dict(zip(prompts, spoken(encoder, prompts), strict=True))
    if unknown := [prompt for prompt, text in texts.items() if not tokenizer.knows(text)]:
        logger.warning(
            "the text encoder %s can read nothing of %s: it knows the words and letters that it was trained on. The "
            "drawings have nothing to do with that",
            encoder.name,
            _named(unknown),
        )
    if long := [prompt for prompt, text in texts.items() if tokenizer.is_cut(text)]:
        logger.warning(
            "the text encoder %s reads the first %d parts of words of a prompt: the end of %s does not count",
            encoder.name,
            tokenizer.max_length - 1,
            _named(long),
        )


def _named(prompts: Sequence[str]) -> str:
    shown = [repr(prompt if len(prompt) <= LONGEST_NAME else prompt[:LONGEST_NAME] + "…") for prompt in prompts]
    more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    return ", ".join(shown[:MOST_NAMED]) + more
