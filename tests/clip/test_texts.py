"""Texts drawn for training."""

from __future__ import annotations

from collections import Counter

import torch

from opsin.clip.config import AugmentConfig
from opsin.clip.texts import TextSampler
from opsin.data.tokenizer import BpeTokenizer

CAPTIONS = [("Cowboy hat  face", "rodeo"), ("sad cat",), ("", "x"), ("word " * 10_000,), ("ქართული ენა", "日本語")]
TOKENIZER = BpeTokenizer.train([text for texts in CAPTIONS for text in texts], 300, max_length=64)
OFF = {"word_dropout": 0.0, "word_shuffle": 0.0, "prefix": 0.0, "subword_dropout": 0.0}


def draw(rows: list[int], seed: int = 0, **options: float) -> tuple[list[str], list[int], torch.Tensor]:
    sampler = TextSampler(CAPTIONS, TOKENIZER, AugmentConfig(**{**OFF, **options}))
    tokens, keys = sampler.draw(rows, torch.Generator().manual_seed(seed))
    assert tokens.shape[0] == keys.shape[0] == len(rows)
    return TOKENIZER.decode(tokens), keys.tolist(), tokens


def test_unvaried_texts_are_captions_each_equally_often() -> None:
    counts = Counter(draw([0] * 600)[0])
    assert counts.keys() == {"cowboy hat face", "rodeo"}
    assert 240 < counts["rodeo"] < 360
    texts, _, tokens = draw([1, 4, 4, 3])
    assert texts[0] == "sad cat"
    assert set(texts[1:3]) <= {"ქართული ენა", "日本語"}
    assert tokens.shape[1] == 64  # of 10,000 words the first ones
    assert torch.equal(draw([1])[2], TOKENIZER.encode(["sad cat"]))


def test_words_are_left_out_but_never_all_and_keep_their_order() -> None:
    counts = Counter(draw([0] * 2000, word_dropout=1.0)[0])
    partial = {"cowboy", "hat", "face", "cowboy hat", "cowboy face", "hat face"}
    assert counts.keys() == partial | {"rodeo"}
    assert min(counts[text] for text in partial) > 100


def test_words_change_places() -> None:
    counts = Counter(draw([0] * 2000, word_shuffle=1.0)[0])
    assert len(counts.keys() - {"rodeo"}) == 6
    assert all(sorted(text.split()) == ["cowboy", "face", "hat"] for text in counts if text != "rodeo")
    half = Counter(draw([1] * 1000, word_shuffle=0.5)[0])
    assert 190 < half["cat sad"] < 310  # a random order is the old one half of the time


def test_words_are_spelled_in_several_ways_and_stay_the_same() -> None:
    texts, _, tokens = draw([1] * 200, subword_dropout=1.0)
    assert set(texts) == {"sad cat"}
    assert len({tuple(row) for row in tokens.tolist()}) == 4  # two places to cut each word at
    assert torch.equal(tokens, draw([1] * 200, subword_dropout=1.0)[2])
    assert not torch.equal(tokens, draw([1] * 200, seed=1, subword_dropout=1.0)[2])


def test_texts_of_the_same_words_have_the_same_key() -> None:
    texts, keys, _ = draw([0, 1] * 200, word_dropout=0.5, word_shuffle=0.5)
    by_words: dict[tuple[str, ...], set[int]] = {}
    for text, key in zip(texts, keys, strict=True):
        by_words.setdefault(tuple(sorted(text.split())), set()).add(key)
    assert all(len(own) == 1 for own in by_words.values())
    assert len(set.union(*by_words.values())) == len(by_words)


def test_empty_captions_and_other_scripts_can_be_varied() -> None:
    texts, _, tokens = draw([2, 4] * 50, word_dropout=1.0, word_shuffle=1.0, subword_dropout=1.0)
    assert set(texts) == {"", "x", "ქართული", "ენა", "日本語"}
    assert (tokens[:, 0] == 1).all()
