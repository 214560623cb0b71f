"""Evaluating a trained classifier on a labelled source."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from opsin.classification.config import ClassificationConfig, FinetuneConfig
from opsin.classification.data import ClassSplits
from opsin.classification.inference import Classifier
from opsin.counts import number_of
from opsin.data.datasets import ImageDataset
from opsin.data.repeats import Overlap, overlap_with_training
from opsin.data.splits import choose_evaluation_images
from opsin.errors import DataError
from opsin.images.opening import Skipped
from opsin.names import find_equal
from opsin.progress import Progress
from opsin.results import Classification, Table, baseline_rows, skipped_document
from opsin.runtime import refuse_damaged
from opsin.sources.image_source import UNLABELLED, ImageSource
from opsin.training.baselines import BaselineComparison, compare_accuracy
from opsin.training.metrics import ClassificationMetrics, classification_metrics
from opsin.training.run import FinalScores, measure_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MISTAKES = 24
"""Images that `Evaluation.mistakes_figure` shows."""


def advice(data: str) -> str:
    """What to do about a classifier that is no better than guessing on this data source."""
    return (
        "train longer (--max-minutes) or on more images, or see what a pretrained encoder makes of these images by "
        f"`opsin evaluate imagenet --protocol linear --data {shlex.quote(data)}`"
    )


@dataclass(frozen=True)
class Mistake:
    """An image that was classified wrong, with the probability of the predicted class. `row` is that of the image in
    the source of its evaluation."""

    id: str
    row: int
    truth: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics with their protocol: which source, which split, how many images were skipped as broken.

    Image i of the metrics is row i of `source`. `overlap` says which of the images were trained on; None where
    the training images are not known, or are what is evaluated.
    """

    data: str
    split: str
    metrics: ClassificationMetrics
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    source: ImageSource
    overlap: Overlap | None
    views: str
    """What the model looked at of each image."""

    @property
    def protocol(self) -> str:
        """What was measured, and how, in a line."""
        return f"{number_of(self.metrics.count, 'image')} of {self.data!r}, split {self.split!r}, {self.views}"

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """The accuracy beside its baseline."""
        metrics = self.metrics
        return compare_accuracy(metrics.accuracy, metrics.labels, advice(self.data))

    @property
    def warnings(self) -> list[str]:
        """What its images have in common with training images."""
        return self.overlap.warnings if self.overlap else []

    def document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        metrics = self.metrics
        return {
            "protocol": self.protocol,
            **metrics.document(),
            "baselines": [comparison.document() for comparison in self.baselines],
            **metrics.class_document(self.class_names),
            **(self.overlap.document() if self.overlap else {}),
            "skipped": skipped_document(self.skipped),
        }

    def tables(self) -> list[Table]:
        """The scores, those of each class, and the confusions of few classes."""
        metrics = self.metrics
        rows = [
            *metrics.rows(),
            *baseline_rows(self.baselines),
            ("loss", metrics.loss),
            ("mean confidence", metrics.mean_confidence),
            ("calibration error", metrics.calibration_error),
        ]
        return [Table(("metric", "value"), rows, self.protocol), *metrics.class_tables(self.class_names)]

    def figure(self) -> Figure:
        """The confusion matrix."""
        from opsin.pictures import confusion_figure

        return confusion_figure(self.metrics.confusion, self.class_names)

    def mistakes_figure(self, most: int = MOST_MISTAKES) -> Figure | None:
        """At most so many of the wrongly classified images, the one that the model is surest of first, each under the
        predicted class, its probability and the true one; None where every image was classified right."""
        from opsin.classification.pictures import predictions_figure
        from opsin.pictures import LARGEST_PICTURE

        mistakes = self.mistakes(most)
        images = [self.image(mistake, LARGEST_PICTURE) for mistake in mistakes]
        results = [Classification((mistake.predicted,), (mistake.confidence,)) for mistake in mistakes]
        return predictions_figure(images, results, [mistake.truth for mistake in mistakes]) if mistakes else None

    def mistakes(self, most: int) -> list[Mistake]:
        """At most so many of the wrongly classified images, the one that the model is surest of first."""
        metrics, names = self.metrics, self.class_names
        return [
            Mistake(
                id=self.source.ids[place],
                row=int(place),
                truth=names[metrics.labels[place]],
                predicted=names[metrics.predicted[place]],
                confidence=float(metrics.confidences[place]),
            )
            for place in metrics.confident_mistakes(most)
        ]

    def image(self, mistake: Mistake, size: int | None = None) -> Image.Image:
        """The image of a mistake; `size` is that of `open_image`."""
        return self.source.load(mistake.row, size)


def evaluate_classifier(
    classifier: Classifier,
    data: str | None = None,
    split: str | None = None,
    *,
    exclude: Sequence[str] = (),
    near_duplicates: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate on a split of a source; both default to what the model was trained on.

    `exclude` are patterns of images to leave out, besides those that the run has left out of its source.
    Which images these are, see `opsin.data.splits.evaluation_split`. Classes are matched by name, as people read them.
    With `near_duplicates`, images are also compared with the training images by what they look like. `progress` is told
    of the images classified, and can stop. Raises DataError when the model does not know a class of the source, or when
    the split is empty; CheckpointError for a model whose scores are NaN; and Cancelled.
    """
    wanted = ClassificationConfig(data=data or "", exclude=tuple(exclude))
    images = choose_evaluation_images(wanted, split, classifier.run)
    source = _match_classes(images.source, classifier.class_names)
    if len(source) == 0:
        raise DataError(f"the source {images.ref!r} has no usable image in its split {images.split!r}")
    source, scores = classifier.predict_source(source, progress)
    refuse_damaged(scores, "the classifier")
    assert source.labels is not None
    return Evaluation(
        data=images.ref,
        split=images.split,
        metrics=classification_metrics(scores, torch.from_numpy(source.labels)),
        class_names=classifier.class_names,
        skipped=tuple(source.skipped),
        source=source,
        overlap=overlap_with_training(images, near=near_duplicates),
        views=classifier.views,
    )


def measure_run(
    config: ClassificationConfig | FinetuneConfig, splits: ClassSplits, model: Path, metrics: Mapping[str, float]
) -> FinalScores:
    """Scores of the model that a run has exported on the test set, where there is one, for `run_training`."""
    held_out = {name: dataset for name, dataset in splits.datasets.items() if name != "train"}
    if "test" in held_out:
        held_out.pop("val", None)  # nothing is added to what the last validation says of it
    classifier = Classifier.from_pretrained(model, config.training.device, config.training.precision)

    def score(dataset: ImageDataset, name: str) -> FinalScores:
        return final_scores(classification_metrics(*classifier.predict_dataset(dataset)), name, config.data)

    return measure_model(classifier, model, held_out, score)


def final_scores(measured: ClassificationMetrics, name: str, data: str) -> FinalScores:
    """What a run keeps of the scores of a split of its source `data`; `name` is the split's in metrics."""
    scores = {"accuracy": measured.accuracy, "top5_accuracy": measured.top5_accuracy, "loss": measured.loss}
    named = {f"{name}_{metric}": value for metric, value in scores.items() if value is not None}
    return FinalScores(named, compare_accuracy(measured.accuracy, measured.labels, advice(data)))


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
