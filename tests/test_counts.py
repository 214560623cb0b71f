"""Numbers with their nouns."""

from __future__ import annotations

from opsin.counts import agree, none_of, number_of


def test_one_thing_is_no_plural() -> None:
    assert [number_of(count, "file") for count in (0, 1, 2, 12000)] == ["0 files", "1 file", "2 files", "12,000 files"]
    assert number_of(1, "class", "classes") == "1 class"
    assert number_of(3, "class", "classes") == "3 classes"
    assert [agree(count, "is", "are") for count in (0, 1, 2)] == ["are", "is", "are"]
    assert none_of(1, "image") == "not even the only image"
    assert none_of(20, "image") == "none of the 20 images"
