"""Names of ImageNet's classes and of groups of them."""

from __future__ import annotations

import pytest

from opsin.encoders.imagenet_classes import class_groups, class_names, class_synonyms, classes_of
from opsin.names import name_key


def test_class_names_are_told_apart() -> None:
    names = class_names()
    assert len({name_key(name) for name in names}) == len(names) == 1000
    assert [names[index] for index in (0, 207, 517, 985)] == ["tench", "golden retriever", "crane (machine)", "daisy"]


def test_classes_have_synonyms() -> None:
    assert class_synonyms()[404] == ("airliner",)
    assert class_synonyms()[281] == ("tabby", "tabby cat")


@pytest.mark.parametrize(
    ("label", "some", "none"),
    [
        ("dog", {"Chihuahua", "golden retriever", "Mexican hairless"}, {"timber wolf", "hyena", "red fox"}),
        ("Cats", {"tabby", "Siamese cat"}, {"lion"}),
        ("musical-instrument", {"violin", "drum"}, {"drumstick"}),
        ("bus", {"school bus"}, {"minivan"}),
        ("bird", {"cock", "magpie", "king penguin"}, {"bee", "platypus"}),
        ("fish", {"tench", "puffer"}, {"starfish", "jellyfish"}),
        ("amphibian", {"bullfrog"}, {"boa constrictor"}),
        ("golden_retriever", {"golden retriever"}, {"Labrador retriever"}),
        ("crane", {"crane (bird)", "crane (machine)"}, set()),
    ],
)
def test_a_label_stands_for_classes(label: str, some: set[str], none: set[str]) -> None:
    found = {class_names()[index] for index in classes_of(label)}
    assert some <= found and not none & found


def test_unknown_labels_stand_for_none() -> None:
    assert classes_of("unicorn") == classes_of("") == ()


def test_the_named_parts_of_the_animals_are_right() -> None:
    """Where the groups of animals begin and end in ImageNet's order, by the names of their first and last classes."""
    ends = {name: (class_names()[members[0]], class_names()[members[-1]]) for name, members in class_groups().items()}
    assert ends["dog"] == ("Chihuahua", "Mexican hairless")
    assert ends["cat"] == ("tabby", "Egyptian cat")
    assert ends["snake"] == ("thunder snake", "sidewinder")
    assert ends["spider"] == ("black and gold garden spider", "wolf spider")
    assert ends["monkey"] == ("guenon", "squirrel monkey")
    assert ends["insect"] == ("tiger beetle", "lycaenid")
    assert ends["animal"] == ("tench", "puffer")
