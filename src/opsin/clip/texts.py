"""Texts for training: one of an image's captions, varied, as tokens.

People search with other words, fewer words and in another order than captions have, and with words that no caption
has, and put words before them that say nothing; so the captions are varied in just these ways.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from opsin.clip.config import AugmentConfig
from opsin.data.tokenizer import BpeTokenizer
from opsin.runtime import derive_seed

PREFIXES = ("a", "an", "the", "a picture of a", "a photo of a", "a drawing of a", "an icon of", "an emoji of")
"""What people put before the words that matter."""


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
        self.counts = Counter(word for texts in self.words for words in texts for word in words)
        self.prefixes = [tuple(tokenizer.normalize(prefix).split()) for prefix in PREFIXES]

    def draw(self, rows: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Tokens int64 (N, T) of a text for each of the images at `rows`, and int64 (N,) that two texts have in common
        when they have the same words, in any order."""
        longest = self.most_words + max(map(len, self.prefixes))
        draws = torch.rand(len(rows), 6 + self.most_words + 2 * longest, generator=generator, device=generator.device)
        pieces, keys = [], []
        for row, draw in zip(rows, draws.tolist(), strict=True):
            texts = self.words[row]
            words = self._vary(texts[int(draw[0] * len(texts))], draw[3:])
            prefix = self.prefixes[int(draw[1] * len(self.prefixes))] if draw[2] < self.augment.prefix else ()
            pieces.append(self._spell(prefix + words, draw[6 + self.most_words :]))
            keys.append(derive_seed(*sorted(words)))
        return self.tokenizer.pad(pieces), torch.tensor(keys)

    def _vary(self, words: tuple[str, ...], draw: Sequence[float]) -> tuple[str, ...]:
        """Some of the words, at least one, perhaps in another order.

        A word that many captions have says little, so it is kept less often, by the square root of its count (Mikolov
        et al. 2013, Distributed Representations of Words and Phrases, section 2.3).
        """
        places = list(range(len(words)))
        if len(words) > 1 and draw[0] < self.augment.word_dropout:
            # The first of a race in which each word arrives at a rate of its weight.
            arrival = {place: -math.log1p(-draw[3 + place]) * math.sqrt(self.counts[words[place]]) for place in places}
            places = sorted(sorted(places, key=arrival.__getitem__)[: 1 + int(draw[1] * (len(words) - 1))])
        if draw[2] < self.augment.word_shuffle:
            places.sort(key=lambda place: draw[3 + place])
        return tuple(words[place] for place in places)

    def _spell(self, words: tuple[str, ...], draw: Sequence[float]) -> list[int]:
        pieces: list[int] = []
        for place, word in enumerate(words):
            is_cut = draw[2 * place] < self.augment.subword_dropout
            pieces += self.tokenizer.encode_word(word, draw[2 * place + 1] if is_cut else None)
        return pieces
