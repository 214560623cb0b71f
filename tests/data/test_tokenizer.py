"""The byte-level tokenizer: nothing is unknown, nothing is lost."""

from __future__ import annotations

import json
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin.data.tokenizer import PAD_INDEX, SMALLEST_VOCABULARY, START_INDEX, BpeTokenizer
from opsin.errors import CheckpointError, ConfigError
from opsin.sources.emoji import list_emoji

TEXTS = [
    "cowboy hat face",
    "cowgirl hat",
    "face with cowboy hat",
    "sad cat",
    "cat face",
    "three o’clock",
    "été à Paris",
]
LONG = BpeTokenizer.train(TEXTS, 340, max_length=4096)


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=150)
def test_any_text_comes_back_normalised(text: str) -> None:
    tokens = LONG.encode([text])
    assert tokens.dtype == torch.int64 and tokens[0, 0] == START_INDEX
    assert (tokens != PAD_INDEX).all()
    assert LONG.decode(tokens) == [LONG.normalize(text)]


@given(st.text(st.characters(max_codepoint=0x24F, categories=["L", "N", "P", "Zs"]), max_size=60))
@settings(deadline=None, max_examples=60)
def test_normalisation_is_that_of_unicode(text: str) -> None:
    expected = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    assert LONG.normalize(text) == expected


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=12), st.floats(0, 0.999))
@settings(deadline=None, max_examples=100)
def test_a_cut_word_is_the_same_word(text: str, cut: float) -> None:
    word = LONG.normalize(text)
    for pieces in (LONG.encode_word(word), LONG.encode_word(word, cut)):
        assert LONG.decode(LONG.pad([pieces])) == [word]


def test_words_are_encoded_as_in_a_text_and_cut_in_all_places() -> None:
    words = ["face", "with", "cowboy", "hat"]
    assert LONG.encode([" ".join(words)]).tolist() == LONG.pad([sum(map(LONG.encode_word, words), [])]).tolist()
    ways = {tuple(LONG.encode_word("cowboy", cut)) for cut in (0.0, 0.25, 0.5, 0.75, 0.99)}
    assert len(ways) == 5
    assert LONG.encode_word("x", 0.5) == LONG.encode_word("x")


def test_frequent_words_are_one_token_and_case_and_space_change_nothing() -> None:
    assert LONG.encode(["cowboy"]).shape == (1, 2)
    assert LONG.encode(["  Cowboy \n HAT"]).tolist() == LONG.encode(["cowboy hat"]).tolist()
    assert LONG.encode(["ｃｏｗｂｏｙ"]).tolist() == LONG.encode(["cowboy"]).tolist()


def test_batches_are_padded_and_long_texts_cut() -> None:
    tokenizer = BpeTokenizer.train(TEXTS, 340, max_length=8)
    tokens = tokenizer.encode(["", "cowboy hat", "cat " * 10_000, "\udcff" * 3])
    assert tokens.shape == (4, 8)
    assert tokens[0].tolist() == [START_INDEX] + [PAD_INDEX] * 7
    assert (tokens[2] != PAD_INDEX).all()
    assert tokenizer.decode(tokens) == ["", "cowboy hat", " ".join(["cat"] * 7), "???"]
    assert tokenizer.encode([""]).shape == (1, 1)
    assert tokenizer.encode([]).shape == (0, 1)


def test_the_names_of_special_tokens_are_ordinary_text() -> None:
    tokens = LONG.encode(["<pad> <start>"])
    assert PAD_INDEX not in tokens and (tokens == START_INDEX).sum() == 1
    assert LONG.decode(tokens) == ["<pad> <start>"]


def test_training_depends_on_the_texts_only() -> None:
    again = BpeTokenizer.train(reversed(TEXTS), 340, max_length=4096)
    assert again.to_json() == LONG.to_json()
    assert len(LONG) <= 340
    assert len(BpeTokenizer.train([], 1000)) == SMALLEST_VOCABULARY


def test_json_round_trip() -> None:
    copy = BpeTokenizer.from_json(json.loads(json.dumps(LONG.to_json())))
    texts = [*TEXTS, "ქართული", "unknownword 7"]
    assert torch.equal(copy.encode(texts), LONG.encode(texts))
    assert copy.max_length == LONG.max_length


@pytest.mark.parametrize(
    "change",
    [
        {"merges": ["a"]},
        {"merges": ["ж щ"]},
        {"tokens": ["a", "b"]},
        {"tokens": ["<pad>", "<start>", "a", "a"], "merges": []},
        {"max_length": "long"},
    ],
)
def test_a_damaged_description_is_refused(change: dict) -> None:
    with pytest.raises(CheckpointError, match="tokenizer of the model is damaged"):
        BpeTokenizer.from_json({**LONG.to_json(), **change})


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size must be at least 258"):
        BpeTokenizer.train(TEXTS, 257)
    with pytest.raises(ConfigError, match="max_length"):
        BpeTokenizer.train(TEXTS, 300, max_length=1)


def test_what_training_texts_never_had_is_not_read() -> None:
    tokenizer = BpeTokenizer.train(["жук 🐞"] * 9, 300, max_length=5)
    unread = tokenizer.unread(["🐞", "жук", "x 日", "7", "日本", "?!", "日本", "\u200b", ""])
    assert (unread.total, unread.max_tokens) == (9, 4)
    assert unread.unreadable == ("日本", "?!", "日本", "\u200b", "")
    assert tokenizer.unread(["abc", "abcd", "жук " * 5]).cut == ("abcd", "жук " * 5)


def test_an_emoji_without_a_token_is_read_as_its_name() -> None:
    tokenizer = BpeTokenizer.train(["жук 🐞"] * 9, 300)
    assert tokenizer.normalize("A🍎  🐞") == "a red apple 🐞"
    assert tokenizer.encode(["🍎", "❤️ x", "\udcff🍎"]).equal(
        tokenizer.encode(["red apple", "red heart x", "? red apple"])
    )
    assert tokenizer.unread(["🍎"]).unreadable == ()
    assert tokenizer.encode(["🐞"]).shape[1] < tokenizer.encode(["lady beetle"]).shape[1]


def test_names_of_emoji_stay_as_they_are() -> None:
    names = [name for emoji in list_emoji() for name in emoji.names]
    spelt = [LONG.normalize(name) for name in names]
    assert len(names) > 3000
    assert spelt == [" ".join(unicodedata.normalize("NFKC", name).lower().split()) for name in names]
