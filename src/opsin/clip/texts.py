"""Texts for training: one of an image's captions, varied, as tokens.

People search with other words, fewer words and in another order than captions have, and with words that no caption
has; so the captions are varied in just these ways.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from opsin.clip.config import AugmentConfig
from opsin.data.tokenizer import BpeTokenizer
from opsin.runtime import derive_seed


class TextSampler:
    """Draws a text for each image of a batch."""

    def __init__(self, captions: Sequence[tuple[str, ...]], tokenizer: BpeTokenizer, augment: AugmentConfig) -> None:
        """`captions` are those of every image, at least one each."""
        self.tokenizer = tokenizer
        self.augment = augment
        # No word beyond the longest text is ever seen.
        longest = tokenizer.max_length
        self.words = [tuple(tuple(tokenizer.normalize(text).split()[:longest]) for text in texts) for texts in captions]
        self.most_words = max((len(words) for texts in self.words for words in texts), default=0)

    def draw(self, rows: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Tokens int64 (N, T) of a text for each of the images at `rows`, and int64 (N,) that two texts have in common
        when they have the same words, in any order."""
        draws = torch.rand(len(rows), 4 + 3 * self.most_words, generator=generator, device=generator.device).tolist()
        pieces, keys = [], []
        for row, draw in zip(rows, draws, strict=True):
            texts = self.words[row]
            words = self._vary(texts[int(draw[0] * len(texts))], draw[1:])
            pieces.append(self._spell(words, draw[4 + self.most_words :]))
            keys.append(derive_seed(*sorted(words)))
        return self.tokenizer.pad(pieces), torch.tensor(keys)

    def _vary(self, words: tuple[str, ...], draw: Sequence[float]) -> tuple[str, ...]:
        """Some of the words, at least one, perhaps in another order."""
        places = list(range(len(words)))
        ranked = sorted(places, key=lambda place: draw[3 + place])
        if len(words) > 1 and draw[0] < self.augment.word_dropout:
            places = ranked[: 1 + int(draw[1] * (len(words) - 1))]
        if draw[2] >= self.augment.word_shuffle:
            places = sorted(places)
        elif len(places) == len(words):
            places = ranked
        return tuple(words[place] for place in places)

    def _spell(self, words: tuple[str, ...], draw: Sequence[float]) -> list[int]:
        pieces: list[int] = []
        for place, word in enumerate(words):
            is_cut = draw[2 * place] < self.augment.subword_dropout
            pieces += self.tokenizer.encode_word(word, draw[2 * place + 1] if is_cut else None)
        return pieces
