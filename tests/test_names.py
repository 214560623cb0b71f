"""Names of files are shown as they are, but for what a terminal would act on."""

from __future__ import annotations

import os

import pytest

from opsin.names import find_equal, name_key, one_spelling, printable


@pytest.mark.parametrize("name", ["photo 1.png", "Brötchen.png", "👩‍💻.png", "می‌خواهم", "a\u00a0b", "写真"])
def test_writing_of_any_language_stays(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines\t", r"two\nlines\t"),
        ("\x1b[31mred", r"\x1b[31mred"),
        (os.fsdecode(b"\xff.png"), r"\udcff.png"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown


@pytest.mark.parametrize(
    "name",
    ["caf\u00e9", "cafe\u0301", "CAF\u00c9", " café\t", "Cafe\u0301"],
    ids=["nfc", "nfd", "upper", "blanks", "mixed"],
)
def test_names_that_people_read_as_equal_have_one_key(name: str) -> None:
    assert name_key(name) == name_key("café")
    assert name_key(name) != name_key("cafe")


def test_the_most_frequent_spelling_stands_for_names_that_read_as_equal() -> None:
    names = ["Cat", "cat", "cat ", "dog", "cafe\u0301", "CAFÉ"]
    assert one_spelling(names) == {
        "Cat": "cat", "cat": "cat", "cat ": "cat", "dog": "dog", "cafe\u0301": "CAFÉ", "CAFÉ": "CAFÉ"
    }  # fmt: skip


def test_a_name_is_found_exactly_first_and_else_by_what_people_read() -> None:
    assert find_equal("cat", ["Cat", "cat"]) == 1
    assert find_equal("CAT ", ["dog", "Cat"]) == 1
    assert find_equal("CAT", ["Cat", "cat"]) is None
    assert find_equal("eel", ["Cat"]) is None
