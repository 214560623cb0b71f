"""Names of the 1,000 classes of ImageNet and of groups of them: "Border collie", "dog", "musical instrument".

The classes and their synonyms are those of timm's `ImageNetInfo` (WordNet); the groups are a table of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from opsin.names import name_key

RENAMED = {134: "crane (bird)", 264: "Cardigan Welsh corgi", 517: "crane (machine)", 639: "tank suit"}
"""Classes whose first name is that of another class, but for letter case."""


@cache
def class_names() -> tuple[str, ...]:
    """Short English names of the 1,000 classes in the order of the scores; no two are equal but for letter case."""
    return tuple(RENAMED.get(index, names[0]) for index, names in enumerate(class_synonyms()))


@cache
def class_synonyms() -> tuple[tuple[str, ...], ...]:
    """All names of each class, the most common first: ("tench", "Tinca tinca")."""
    from timm.data import ImageNetInfo

    return tuple(
        tuple(name.strip() for name in description.split(",")) for description in ImageNetInfo().label_descriptions()
    )


@cache
def class_definitions() -> tuple[str, ...]:
    """What WordNet says each class is, after its names: "tench, Tinca tinca: freshwater dace-like game fish of …"."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_descriptions(detailed=True))


@cache
def class_groups() -> dict[str, tuple[int, ...]]:
    """The classes of each group, ascending, by each of the group's names."""
    lines = files("opsin.encoders").joinpath("imagenet_groups.txt").read_text(encoding="utf-8").splitlines()
    groups: dict[str, tuple[int, ...]] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        names, _, numbers = line.rpartition(":")
        groups |= dict.fromkeys((name.strip() for name in names.split(",")), _numbers(numbers.split()))
    return groups


def classes_of(label: str) -> tuple[int, ...]:
    """The classes that a label stands for, ascending: a group's, or those that have this name; empty for none.

    Letter case, a plural s, and "-" or "_" in place of blanks do not count. A name of a group and of a class is the
    group's: "amphibian" are frogs, not the vehicle.
    """
    return _by_name().get(_name_key(label), ())


def label_names() -> tuple[str, ...]:
    """All labels that stand for classes, in the spelling that `classes_of` compares."""
    return tuple(_by_name())


def _numbers(parts: Sequence[str]) -> tuple[int, ...]:
    ranges = (part.partition("-") for part in parts)
    return tuple(sorted({number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}))


@cache
def _by_name() -> dict[str, tuple[int, ...]]:
    known: dict[str, set[int]] = {}
    for index, names in enumerate(class_synonyms()):
        for name in (*names, class_names()[index]):
            known.setdefault(_name_key(name), set()).add(index)
    groups = {_name_key(name): members for name, members in class_groups().items()}
    return {name: tuple(sorted(members)) for name, members in known.items()} | groups


def _name_key(name: str) -> str:
    return " ".join(_singular(word) for word in name_key(name).replace("-", " ").replace("_", " ").split())


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
