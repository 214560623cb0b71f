"""Words of real texts, indices and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.captioning.vocabulary import SPECIAL_WORDS, Vocabulary, join_words, tokenise
from opsin.errors import DataError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A black dog , running .", ["a", "black", "dog", "running"]),
        ("The man's T-shirt (blue)!", ["the", "man's", "t", "shirt", "blue"]),
        ("the girls’ 'red' ball", ["the", "girls", "red", "ball"]),
        ("two   dogs\n\tand 3 cats", ["two", "dogs", "and", "3", "cats"]),
        ("Ein Käfer und ein ÄPFEL", ["ein", "käfer", "und", "ein", "äpfel"]),
        ("cafe\u0301", ["café"]),
        ("красный МЯЧ", ["красный", "мяч"]),
        ("एक हिन्दी कुत्ता", ["एक", "हिन्दी", "कुत्ता"]),
        ("سگ سیاه", ["سگ", "سیاه"]),
        ("一只黑狗", ["一", "只", "黑", "狗"]),
        ("黒いネコ!", ["黒", "い", "ネ", "コ"]),
        ("검은 개", ["검은", "개"]),
        ("ﾈｺのﾊﾞｽ", ["ﾈ", "ｺ", "の", "ﾊﾞ", "ｽ"]),
        ("ネコ・カメ", ["ネ", "コ", "カ", "メ"]),
        ("แมวดำ 2 ตัว", ["แ", "ม", "ว", "ด", "ำ", "2", "ตั", "ว"]),
        ("ที่dog", ["ที่", "dog"]),
        ("ໝາສີດຳ", ["ໝ", "າ", "ສີ", "ດ", "ຳ"]),
        ("ឆ្កែ។", ["ឆ្", "កែ"]),
        ("ခွေး။", ["ခွေး"]),
        ("I ❤️ my dog🐶🐶", ["i", "❤", "my", "dog", "🐶", "🐶"]),
        ("👩‍🍳 cooks", ["👩‍🍳", "cooks"]),
        ("a ⚽\ufe0f ball", ["a", "⚽", "ball"]),
        ("⚽\ufe0fwatch ☺\ufe0e", ["⚽", "watch", "☺"]),
        ("1\ufe0f\u20e3 🏳\ufe0f\u200d🌈 ❤", ["1\u20e3", "🏳\u200d🌈", "❤"]),
        ("e\ufe0f \ufe0f", ["e"]),
        ("<START> of <NULL>", ["start", "of", "null"]),
        ("... -- !", []),
        ("", []),
        ("'' ' \u200d", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


@given(st.text())
def test_words_of_any_text_are_words_again(text: str) -> None:
    words = tokenise(text)
    assert all(words)
    assert not set(words) & set(SPECIAL_WORDS)
    assert not any(character.isspace() for word in words for character in word)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_is_cut_like_any_other_text(text: str) -> None:
    assert tokenise(text) == [word for word in tokenise(text + " é") if word != "é"]


@given(st.text(alphabet="aZ é's狗ネा🐶-.ก้ﾊﾞ\u3099"))
def test_joined_words_are_cut_in_the_same_places(text: str) -> None:
    assert tokenise(join_words(tokenise(text))) == tokenise(text)


def test_join() -> None:
    assert join_words(["a", "dog"]) == "a dog"
    assert join_words(["一", "只", "狗", "dog", "🐶"]) == "一只狗 dog 🐶"
    assert join_words(["ที่", "ดี", "dog"]) == "ที่ดี dog"
    assert join_words([]) == ""


TEXTS = ["A dog and a cat.", "a dog", "A bird"]


def test_most_frequent_words_come_first() -> None:
    assert Vocabulary.from_texts(TEXTS).words == (*SPECIAL_WORDS, "a", "dog", "and", "bird", "cat")
    assert Vocabulary.from_texts(TEXTS, min_count=2).words == (*SPECIAL_WORDS, "a", "dog")
    with pytest.raises(DataError, match="no word occurs 9 times"):
        Vocabulary.from_texts(TEXTS, min_count=9)
    with pytest.raises(DataError, match="no word occurs"):
        Vocabulary.from_texts(["...", ""])


def test_encode_and_decode() -> None:
    vocabulary = Vocabulary.from_texts(TEXTS, min_count=2)
    assert vocabulary.encode("A dog, a cat!") == [1, 4, 5, 4, 3, 2]
    assert vocabulary.decode([1, 4, 5, 4, 3, 2, 0, 0]) == "a dog a <UNK>"
    assert vocabulary.decode([4, 0, 5]) == "a dog"
    assert vocabulary.decode([2, 4]) == ""
    assert vocabulary.encode("") == [1, 2]


@given(st.lists(st.text(min_size=1), min_size=1))
def test_decode_undoes_encode(texts: list[str]) -> None:
    if not any(tokenise(text) for text in texts):
        return
    vocabulary = Vocabulary.from_texts(texts)
    for text in texts:
        assert vocabulary.decode_words(vocabulary.encode(text)) == tokenise(text)


def test_file_is_the_course_layout(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_texts([*TEXTS, "狗 🐶 été"])
    vocabulary.save(tmp_path / "vocab.json")
    content = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert content["idx_to_word"] == list(vocabulary.words)
    assert content["word_to_idx"]["dog"] == vocabulary.words.index("dog")
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary
    assert Vocabulary.from_mapping(vocabulary.word_to_idx) == vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no vocabulary"),
        ("[1]", "is no vocabulary"),
        ('{"idx_to_word": []}', "needs `idx_to_word` and `word_to_idx`"),
        ('{"idx_to_word": ["a"], "word_to_idx": {"a": 0}}', "lacks <NULL>, <START>, <END>, <UNK>"),
        ('{"idx_to_word": ["a", "b"], "word_to_idx": {"a": 0, "b": 2}}', "'b' has index 2, and in order it would be 1"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Vocabulary.load(tmp_path / "vocab.json")


def test_file_that_contradicts_itself(tmp_path: Path) -> None:
    words = [*SPECIAL_WORDS, "a", "b"]
    content = {"idx_to_word": words[::-1], "word_to_idx": {word: index for index, word in enumerate(words)}}
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="do not say the same"):
        Vocabulary.load(tmp_path / "vocab.json")
    with pytest.raises(DataError, match="cannot be read"):
        Vocabulary.load(tmp_path / "none.json")


def test_word_twice() -> None:
    with pytest.raises(DataError, match="1 word twice, for example 'a'"):
        Vocabulary((*SPECIAL_WORDS, "a", "a"))
