"""Judging a trained classifier on a labelled source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsin.classification.data import rows_of_run
from opsin.classification.inference import Classifier
from opsin.classification.task import evaluate_dataset
from opsin.data.datasets import image_dataset
from opsin.data.image_source import UNLABELLED, ImageSource
from opsin.data.images import Skipped
from opsin.data.names import find_equal
from opsin.data.parts import judged_part
from opsin.data.sources import exclude_images, is_same_source, open_labelled
from opsin.errors import DataError
from opsin.training.metrics import ClassificationMetrics, classification_metrics
from opsin.training.record import has_changed


@dataclass(frozen=True)
class Evaluation:
    """Metrics with their protocol: which source, which split, how many images were left out as broken."""

    data: str
    split: str
    metrics: ClassificationMetrics
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def evaluate_classifier(
    classifier: Classifier, data: str | None = None, split: str | None = None, *, exclude: Sequence[str] = ()
) -> Evaluation:
    """Evaluate on a split of a source; both default to what the model was trained on.

    `exclude` are patterns of images to leave out, besides those that the run has left out of its source.
    Which images these are, see `opsin.data.parts.judged_part`. Classes are matched by name, as people read them. Raises
    DataError when the model does not know a class of the source, or when the split is empty.
    """
    own_data = str(classifier.training.get("data", ""))
    ref = data or own_data
    if not ref:
        raise DataError("this model does not say what it was trained on; name a source with --data")
    is_own = is_same_source(ref, own_data)
    own_exclude = tuple(classifier.training.get("exclude", ()))
    # The own source is opened as the run read it: its rows are those of that reading.
    opened = open_labelled(own_data if is_own else ref, min_classes=1, exclude=own_exclude if is_own else exclude)
    rows = _rows_of_run(opened, classifier.training) if is_own else None
    matched = _match_classes(opened, classifier.class_names)
    source, split = judged_part(matched, split, rows, changed=has_changed(opened, classifier.training))
    source = exclude_images(source, exclude, own_exclude) if is_own else source
    dataset = image_dataset(source, classifier.preprocessing.image_size)
    if len(dataset) == 0:
        raise DataError(f"the source {ref!r} has no usable image in its split {split!r}")
    scores, labels = evaluate_dataset(classifier, dataset)
    metrics = classification_metrics(scores, labels)
    return Evaluation(ref, split, metrics, classifier.class_names, tuple(dataset.skipped))


def _rows_of_run(source: ImageSource, training: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return rows_of_run(
        source,
        val_fraction=float(training.get("val_fraction", 0.0)),
        max_train=training.get("max_train"),
        seed=int(training.get("training", {}).get("seed", 0)),
    )


def _match_classes(source: ImageSource, class_names: tuple[str, ...]) -> ImageSource:
    """The source with its labels renumbered to the model's classes."""
    assert source.class_names is not None and source.labels is not None
    places = {name: find_equal(name, class_names) for name in source.class_names}
    used = [source.class_names[index] for index in np.unique(source.labels)]
    if unknown := [name for name in used if places[name] is None]:
        raise DataError(
            f"the model does not know the class {unknown[0]!r} of {source.name!r} ({len(unknown)} unknown in all); "
            f"it knows {', '.join(class_names[:10])}{', …' if len(class_names) > 10 else ''}"
        )
    renumber = np.array([UNLABELLED if place is None else place for place in places.values()], dtype=np.int64)
    return source.relabel(renumber[source.labels], class_names)
