"""Labels as a source has them, texts or numbers and any number an image, as the fields of an ImageSource."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from opsin.names import one_spelling, printable
from opsin.sources.image_source import UNLABELLED


def number_labels(labels: Sequence[Sequence[str]]) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """The classes of each image, ascending, and the names of all classes, sorted, numbers by their value.

    Labels that people read as equal (`name_key`) are one class, by the spelling that occurs most often.
    """
    spelling = one_spelling(printable(label) for of_image in labels for label in of_image)
    names = sorted(set(spelling.values()))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    numbers = {name: number for number, name in enumerate(names)}
    sets = [tuple(sorted({numbers[spelling[printable(label)]] for label in of_image})) for of_image in labels]
    return sets, tuple(names)


def label_fields(sets: Sequence[tuple[int, ...]], class_names: Sequence[str]) -> dict[str, Any]:
    """The fields of an ImageSource: `labels`, or `label_sets` where an image has several; none without any label."""
    if not any(sets):
        return {}
    if any(len(classes) > 1 for classes in sets):
        return {"label_sets": list(sets), "class_names": tuple(class_names)}
    labels = np.array([classes[0] if classes else UNLABELLED for classes in sets], dtype=np.int64)
    return {"labels": labels, "class_names": tuple(class_names)}
