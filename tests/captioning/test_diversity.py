"""Captions that have collapsed in one way or another, and captions that have not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from opsin.captioning.diversity import collapse, diversity
from opsin.captioning.metrics import caption_metrics

COLOURS = ["red", "green", "blue", "black", "white", "yellow"]
THINGS = ["car", "dog", "boat", "house", "tree"]
PEOPLE = [f"a {colour} {thing} stands near the {other}" for colour in COLOURS for thing in THINGS for other in THINGS]


def test_distinct_shares_are_those_of_a_count() -> None:
    captions = [caption.split() for caption in ("a cat and a dog", "a dog", "")]
    measured = diversity(captions)
    words = Counter(word for caption in captions for word in caption)
    assert measured.distinct_captions == 3
    assert measured.distinct1 == pytest.approx(len(words) / words.total())
    assert measured.distinct2 == pytest.approx(4 / 5)  # "a dog" occurs twice among five pairs
    assert measured.repetition == 0


@pytest.mark.parametrize(
    ("caption", "share"),
    [
        ("a a a a", 0.75),
        ("a man a man a man", 0.5),
        ("on the left on the left on the left", 4 / 9),
        ("a red car and a blue car", 0.0),
        ("a", 0.0),
        ("", 0.0),
    ],
)
def test_repetition_counts_words_that_end_a_repeated_run(caption: str, share: float) -> None:
    assert diversity([caption.split()]).repetition == pytest.approx(share)


@pytest.mark.parametrize(
    ("captions", "reason"),
    [
        (["a dog"] * 150, "all 150 images got the same caption"),
        (["a a a a", "a a a", "a a a a a a"] * 50, "of the words repeat"),
        ([" ".join(["a man"] * (2 + row % 9)) for row in range(150)], "of the words repeat"),
        (["a dog near the tree", "a red car"] * 75, "2 different captions, and people wrote 150"),
    ],
)
def test_collapsed_captions(captions: list[str], reason: str) -> None:
    metrics = caption_metrics(captions, [[text] for text in PEOPLE])
    assert metrics.collapsed and metrics.collapse is not None
    assert reason in metrics.collapse


def test_four_words_in_ever_new_orders_have_collapsed() -> None:
    generator = np.random.default_rng(0)
    people = [[f"thing{row} of kind{row % 50} near place{row % 31}"] for row in range(100)]
    captions = []
    for _ in people:
        words = ["a"]
        while len(words) < 8:
            words.append(str(generator.choice([word for word in ("a", "dog", "red", "by") if word != words[-1]])))
        captions.append(" ".join(words))
    metrics = caption_metrics(captions, people)
    assert metrics.diversity.distinct_captions > 90
    assert metrics.collapse is not None and "distinct-2 is" in metrics.collapse


def test_captions_as_people_write_them_have_not_collapsed() -> None:
    references = [[text] for text in PEOPLE]
    assert not caption_metrics(PEOPLE, references).collapsed
    # A modest captioner: right about the color only, and never about the place.
    modest = [f"a {text.split()[1]} {THINGS[row % 5]} stands there" for row, text in enumerate(PEOPLE)]
    assert not caption_metrics(modest, references).collapsed
    # One word an image, and people who repeat themselves.
    assert not caption_metrics([f"{a}{b}" for a in COLOURS for b in THINGS], [["two words"]] * 30).collapsed
    family = ["woman woman boy boy", "man man girl girl", "man woman boy boy"]
    assert not caption_metrics(family, [[text] for text in family]).collapsed


def test_few_kinds_of_images_need_few_captions() -> None:
    captions = [f"a {colour} square" for colour in COLOURS[:3]] * 40
    assert not caption_metrics(captions, [[text] for text in captions]).collapsed


def test_one_image_says_nothing() -> None:
    assert collapse(diversity([["a", "a", "a"]]), diversity([["a", "dog"]])) is None
