"""Texts as sequences of sub-words: byte-level byte-pair encoding, so that no text has an unknown part.

"Neural Machine Translation of Rare Words with Subword Units" (Sennrich et al. 2016), over bytes as in GPT-2 (Radford et
al. 2019), by the `tokenizers` library. Emoji that have no token of their own are read as their names, `red apple`, and
texts are normalised to NFKC, lower-cased, and their white space to single spaces. Every text begins with `<start>`, so
that also an empty one has a token.

Dimensions: N texts, T tokens of the longest one.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from opsin.data.unread import Unread
from opsin.errors import CheckpointError, ConfigError

PAD, START = "<pad>", "<start>"
PAD_INDEX, START_INDEX = 0, 1
SMALLEST_VOCABULARY = 2 + 256


class BpeTokenizer:
    """Texts to tokens and back."""

    def __init__(self, tokens: Sequence[str], merges: Sequence[tuple[str, str]], max_length: int) -> None:
        """`tokens` in the order of their numbers, `<pad>` and `<start>` first; `merges` from the most frequent on.

        A text keeps its first `max_length` tokens, `<start>` counted.
        """
        if max_length < 2:
            raise ConfigError(f"max_length must leave room for a token after <start>, not {max_length}")
        self.tokens = tuple(tokens)
        self.merges = tuple(merges)
        self.max_length = max_length
        vocabulary = {token: index for index, token in enumerate(self.tokens)}
        self._tokenizer = _pipeline(models.BPE(vocab=vocabulary, merges=list(self.merges)))
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, max_length: int = 32) -> BpeTokenizer:
        """Learn the most frequent sub-words of texts: at most `vocab_size` tokens, of which 258 are there anyway.

        The result depends on the texts only, not on their order. Raises ConfigError for a smaller `vocab_size`.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(f"vocab_size must be at least {SMALLEST_VOCABULARY} (all bytes), not {vocab_size}")
        learner = _pipeline(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, START],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learner.train_from_iterator(map(_encodable, texts), trainer)
        numbers = learner.get_vocab()
        # The library tells the merges nowhere else.
        merges = [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]
        return cls(sorted(numbers, key=lambda token: numbers[token]), merges, max_length)

    def __len__(self) -> int:
        return len(self.tokens)

    def normalize(self, text: str) -> str:
        """The text as the tokens spell it: emoji that have no token of their own as their names, NFKC, lower case,
        single spaces. Lone surrogates become question marks."""
        return str(self._tokenizer.normalizer.normalize_str(self._spoken(text)))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int64 (N, T), padded with 0; T is at least 1 and at most `max_length`."""
        encodings = self._tokenizer.encode_batch([self._spoken(text) for text in texts])
        return self.pad([encoding.ids for encoding in encodings])

    def unread(self, texts: Iterable[str]) -> Unread:
        """Of which texts no token has a letter, a digit or a pictograph in it, and which have more tokens than
        `max_length` leaves room for.

        A character that the training texts never had is spelt in several tokens, none of which is a character.
        """
        total, unreadable, cut = 0, [], []
        for text in texts:
            total += 1
            tokens = self._tokens_of(self._spoken(text))
            if self._readable.isdisjoint(tokens):
                unreadable.append(text)
            if len(tokens) + 1 > self.max_length:
                cut.append(text)
        return Unread(total, tuple(unreadable), tuple(cut), self.max_length - 1)

    def pad(self, pieces: Sequence[Sequence[int]]) -> Tensor:
        """int64 (N, T) of the tokens of each text: `<start>` put before, cut at `max_length`, padded with 0."""
        longest = min(max((len(tokens) for tokens in pieces), default=0) + 1, self.max_length)
        rows = [[START_INDEX, *tokens[: longest - 1]] for tokens in pieces]
        padded = [row + [PAD_INDEX] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)

    def encode_word(self, word: str, cut: float | None = None) -> list[int]:
        """The tokens of a normalised word without white space, after other words or none.

        With `cut` in [0, 1) the word is cut in two after about that share of its letters, and each part is encoded
        alone: other sub-words spell the same word, as in BPE-dropout (Provilkov et al. 2020), by the caller's number.
        """
        if cut is None or len(word) < 2:
            return self._pieces_of(word)
        place = 1 + int(cut * (len(word) - 1))
        return self._pieces_of(word[:place]) + self._pieces_of(word[place:], continues=True)

    def decode(self, tokens: Tensor) -> list[str]:
        """The normalised texts of tokens, int64 (N, T)."""
        skipped = (PAD_INDEX, START_INDEX)
        rows = [[index for index in row if index not in skipped] for row in tokens.tolist()]
        return [self._tokenizer.decode(row).removeprefix(" ") for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Everything that `from_json` needs, in JSON types."""
        return {
            "tokens": list(self.tokens),
            "merges": [" ".join(pair) for pair in self.merges],
            "max_length": self.max_length,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BpeTokenizer:
        """The tokenizer that `to_json` described. Raises CheckpointError when the description is damaged."""
        try:
            merges = [(first, second) for first, second in (pair.split(" ") for pair in content["merges"])]
            tokens = [str(token) for token in content["tokens"]]
            if tokens[:2] != [PAD, START] or len(set(tokens)) != len(tokens):
                raise ValueError("its tokens do not begin with <pad> and <start>, or occur twice")
            return cls(tokens, merges, int(content["max_length"]))
        except ConfigError:
            raise
        except Exception as error:  # the library raises a bare Exception for merges of tokens that are not there
            raise CheckpointError(f"the tokenizer of the model is damaged: {error}") from error

    def _tokens_of(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    @cached_property
    def _readable(self) -> frozenset[int]:
        """The tokens with a letter, a digit or a pictograph in them."""
        texts = (self._tokenizer.decode([token]).replace("\ufffd", "") for token in range(len(self)))
        return frozenset(token for token, text in enumerate(texts) if any(map(_is_telling, text)))

    def _spoken(self, text: str) -> str:
        """The text with each emoji that there is no token for replaced by its name, and without lone surrogates."""
        if text.isascii():
            return text
        import emoji

        def name_of(char: str, known: dict[str, Any]) -> str:
            if "en" not in known or not self._readable.isdisjoint(self._tokens_of(char)):
                return char
            return " " + known["en"].strip(":").replace("_", " ").replace("-", " ") + " "

        return " ".join(emoji.replace_emoji(_encodable(text), name_of).split())

    def _pieces_of(self, word: str, *, continues: bool = False) -> list[int]:
        key = word if continues else " " + word
        known = self._pieces.get(key)
        if known is None:
            known = [
                token.id
                for part, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(key)
                for token in self._tokenizer.model.tokenize(part)
            ]
            self._pieces[key] = known
        return known


def _pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _is_telling(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "LN" or category == "So"


def _encodable(text: str) -> str:
    """Without lone surrogates, which Python has in names of files that are not UTF-8, and no other language."""
    return text.encode("utf-8", "replace").decode("utf-8")
