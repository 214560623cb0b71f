"""The words that a captioner knows, and how texts become words.

A text is lower-cased and cut into words at everything that is neither letter, digit nor mark, in any script; an
apostrophe inside a word stays. Scripts that are written without blanks (Chinese, Japanese, Thai, Lao, Khmer, Burmese)
are cut into characters, each with its marks. An emoji is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import emoji

from opsin.config import parse_json
from opsin.counts import number_of
from opsin.errors import DataError, system_errors_as
from opsin.files import write_json

NULL, START, END, UNKNOWN = SPECIAL_WORDS = ("<NULL>", "<START>", "<END>", "<UNK>")
JOINERS = "\u200c\u200d"
"""Zero-width characters that stand inside words of some scripts."""
SELECTORS = {0xFE0E: None, 0xFE0F: None}
"""They ask for a plain or a colourful drawing of the character before: it is one word with and without them."""
HALF_WIDTH_VOICING = "\uff9e\uff9f"
"""Marks on half-width Katakana, which Unicode counts among the letters."""
ASCII_WORD = re.compile("[a-z0-9']+")


def tokenise(text: str) -> list[str]:
    """The words of a text, lower-cased and without punctuation; empty when there are none."""
    if text.isascii():  # a short cut for most captions of large data sets, with the same result
        return [word for part in ASCII_WORD.findall(text.lower()) if (word := part.strip("'"))]
    return _tokenise_any(text)


def join_words(words: Sequence[str]) -> str:
    """Words as a text, with blanks between them, except between characters of scripts that have none."""
    text = ""
    for word in words:
        blank = text and (_is_mark(word[0]) or not (_stands_alone(text[-1]) and _stands_alone(word[0])))
        text += f" {word}" if blank else word
    return text


@dataclass(frozen=True)
class Vocabulary:
    """Words by index, the four special ones among them. Raises DataError for a list that is none."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if missing := [word for word in SPECIAL_WORDS if word not in self.words]:
            raise DataError(f"the vocabulary lacks {', '.join(missing)}")
        if twice := [word for word, count in Counter(self.words).items() if count > 1]:
            raise DataError(f"the vocabulary has {number_of(len(twice), 'word')} twice, for example {twice[0]!r}")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def word_to_idx(self) -> dict[str, int]:
        """The index of each word."""
        return {word: index for index, word in enumerate(self.words)}

    @property
    def idx_to_word(self) -> list[str]:
        """The word of each index."""
        return list(self.words)

    @classmethod
    def from_texts(cls, texts: Iterable[str], min_count: int = 1) -> Vocabulary:
        """Every word that occurs at least `min_count` times, the most frequent first, equals in order of spelling.

        Raises DataError when not a single word does.
        """
        counts = Counter(word for text in texts for word in tokenise(text))
        frequent = [word for word, count in counts.items() if count >= min_count]
        if not frequent:
            raise DataError(
                f"no word occurs {min_count} times in these captions; they hold "
                f"{number_of(len(counts), 'different word')}"
            )
        return cls((*SPECIAL_WORDS, *sorted(frequent, key=lambda word: (-counts[word], word))))

    @classmethod
    def from_mapping(cls, word_to_idx: Mapping[str, int], where: str = "word_to_idx") -> Vocabulary:
        """From indices by word, as the course's data has them: every index from 0 on exactly once, else DataError."""
        words = sorted(word_to_idx, key=lambda word: word_to_idx[word])
        for index, word in enumerate(words):
            if word_to_idx[word] != index:
                raise DataError(
                    f"{where}: the word {word!r} has index {word_to_idx[word]}, and in order it would be {index}"
                )
        return cls(tuple(words))

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a JSON file in the course's layout, with `idx_to_word` and `word_to_idx`. Raises DataError."""
        with system_errors_as(DataError, f"{path} cannot be read"):
            text = Path(path).read_bytes()
        try:
            content = parse_json(text.decode())
            listed, mapping = list(content["idx_to_word"]), dict(content["word_to_idx"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is no vocabulary: it needs `idx_to_word` and `word_to_idx`") from error
        vocabulary = cls.from_mapping(mapping, where=str(path))
        if vocabulary.idx_to_word != listed:
            raise DataError(f"{path}: `idx_to_word` and `word_to_idx` do not say the same")
        return vocabulary

    def save(self, path: str | Path) -> None:
        """Write the file that `load` reads."""
        write_json(path, {"idx_to_word": self.idx_to_word, "word_to_idx": self.word_to_idx})

    def encode(self, text: str) -> list[int]:
        """Indices of the text's words between `<START>` and `<END>`; a word that is not known becomes `<UNK>`."""
        known, unknown = self.word_to_idx, self.word_to_idx[UNKNOWN]
        return [known[START], *(known.get(word, unknown) for word in tokenise(text)), known[END]]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of a caption up to `<END>`, without `<NULL>` and `<START>`; `<UNK>` stays."""
        return join_words(self.decode_words(tokens))

    def decode_words(self, tokens: Iterable[int]) -> list[str]:
        """The words of a caption up to `<END>`, without `<NULL>` and `<START>`."""
        words = []
        for token in tokens:
            word = self.words[token]
            if word == END:
                break
            if word not in (NULL, START):
                words.append(word)
        return words


def _tokenise_any(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text).replace("’", "'").translate(SELECTORS)
    words: list[str] = []
    end = 0
    for found in emoji.emoji_list(text):
        words += _words(text[end : found["match_start"]])
        words.append(found["emoji"])
        end = found["match_end"]
    return words + _words(text[end:])


def _words(text: str) -> list[str]:
    pieces = []
    was_alone = False
    for character in text.lower():
        if _is_mark(character) or character in JOINERS:
            pieces.append(character)  # a part of the letter before
            continue
        in_word = character.isalnum() or character == "'"
        is_alone = in_word and _stands_alone(character)
        pieces.append((" " if is_alone or was_alone else "") + (character if in_word else " "))
        was_alone = is_alone
    return [word for part in "".join(pieces).split() if (word := part.strip("'" + JOINERS))]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or character in HALF_WIDTH_VOICING


def _stands_alone(character: str) -> bool:
    """Whether it belongs to a script without blanks: Han, Kana, Thai, Lao, Khmer, Burmese."""
    code = ord(character)
    return (
        0x0E00 <= code <= 0x0EFF  # Thai and Lao
        or 0x1000 <= code <= 0x109F  # Burmese
        or 0x1780 <= code <= 0x17FF  # Khmer
        or 0x3040 <= code <= 0x30FF  # Hiragana and Katakana
        or 0x3400 <= code <= 0x4DBF  # Han, extension A
        or 0x4E00 <= code <= 0x9FFF  # Han
        or 0xF900 <= code <= 0xFAFF  # Han, compatibility forms
        or 0xFF66 <= code <= 0xFF9F  # Katakana of half width
        or 0x20000 <= code <= 0x3FFFF  # Han, further extensions
    )
