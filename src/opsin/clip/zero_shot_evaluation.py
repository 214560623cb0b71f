"""Evaluating zero-shot classification on a labelled source, whose class names are the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from opsin.clip.retrieval import cosine_similarity
from opsin.clip.zero_shot import DEFAULT_TEMPLATES, ZeroShotClassifier, cross_fitted_probabilities, fit_logit_scale
from opsin.counts import number_of
from opsin.encoders.base import ImageTextEncoder
from opsin.encoders.features import source_vectors
from opsin.images.opening import Skipped
from opsin.progress import Progress
from opsin.results import Table, baseline_rows, skipped_document
from opsin.sources.opening import open_labelled
from opsin.training.baselines import BaselineComparison, compare_accuracy
from opsin.training.metrics import ClassificationMetrics, classification_metrics, expected_calibration_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ADVICE = (
    "try other --template texts or a larger model (open_clip:ARCHITECTURE/TAG), or train a classifier on labelled "
    "images (opsin train vit)"
)


@dataclass(frozen=True)
class ZeroShotEvaluation:
    """Metrics with their protocol: which source, which split, which prompts, and what was left out as broken.

    `metrics.loss` and `calibration_error` belong to probabilities at `logit_scale`, the model's own.
    `fitted_logit_scale` fits all these images best; `fitted_calibration_error` is that of probabilities of each half of
    the images at the scale that fits the other half, and None for a single image.
    """

    data: str
    split: str
    templates: tuple[str, ...]
    metrics: ClassificationMetrics
    class_names: tuple[str, ...]
    logit_scale: float
    calibration_error: float
    fitted_logit_scale: float
    fitted_calibration_error: float | None
    skipped: tuple[Skipped, ...]

    @property
    def protocol(self) -> str:
        """What was measured, and how, in a line."""
        prompts = f"{len(self.templates)} templates" if len(self.templates) > 1 else f"template {self.templates[0]!r}"
        return f"{number_of(self.metrics.count, 'image')} of {self.data!r}, split {self.split!r}, zero-shot, {prompts}"

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """The accuracy beside its baseline."""
        metrics = self.metrics
        return compare_accuracy(metrics.accuracy, metrics.labels, ADVICE)

    @property
    def warnings(self) -> list[str]:
        """None: nothing is trained."""
        return []

    def document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        metrics = self.metrics
        return {
            "protocol": self.protocol,
            **metrics.document(),
            "templates": self.templates,
            "logit_scale": self.logit_scale,
            "calibration_error": self.calibration_error,
            "fitted_logit_scale": self.fitted_logit_scale,
            "fitted_calibration_error": self.fitted_calibration_error,
            "baselines": [comparison.document() for comparison in self.baselines],
            **metrics.class_document(self.class_names),
            "per_class_accuracy": metrics.per_class_accuracy().tolist(),
            "skipped": skipped_document(self.skipped),
        }

    def tables(self) -> list[Table]:
        """The scores, those of each class, and the confusions of few classes."""
        own, fitted = self.logit_scale, self.fitted_logit_scale
        rows = [
            *self.metrics.rows(),
            *baseline_rows(self.baselines),
            ("loss", self.metrics.loss),
            (f"calibration error at the model's logit scale, {own:.4g}", self.calibration_error),
            (f"calibration error at a fitted one, about {fitted:.4g}", self.fitted_calibration_error),
        ]
        return [Table(("metric", "value"), rows, self.protocol), *self.metrics.class_tables(self.class_names)]

    def figure(self) -> Figure:
        """The confusion matrix."""
        from opsin.pictures import confusion_figure

        return confusion_figure(self.metrics.confusion, self.class_names)


def evaluate_zero_shot(
    encoder: ImageTextEncoder,
    data: str,
    split: str | None = None,
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> ZeroShotEvaluation:
    """Classify a split of a labelled source by its class names; without `split` its test split, or else all of it.

    Only classes with images in the source take part; underscores in their names are read as spaces. `exclude` are
    patterns of images to leave out; see `opsin.sources.exclusion`. The images' vectors come from the cache of
    `source_vectors`. Raises DataError when the source has no labels, no such split, or no image that can be read;
    ConfigError for templates and names that cannot be used.
    """
    source = open_labelled(data, exclude=exclude)
    assert source.labels is not None and source.class_names is not None
    present = np.unique(source.labels)
    names = tuple(source.class_names[index] for index in present)
    source = source.relabel(np.searchsorted(present, source.labels), names)
    if split is None:
        split = "test" if source.splits is not None and bool((source.splits == "test").any()) else "all"
    if split != "all":
        source = source.split(split)
    classifier = ZeroShotClassifier(encoder, {name: (name.replace("_", " "),) for name in names}, templates=templates)
    source, vectors = source_vectors(source, encoder, progress=progress)
    cosines = cosine_similarity(vectors, classifier.label_features)
    assert source.labels is not None
    labels = torch.from_numpy(source.labels)
    fitted = None
    if len(labels) > 1:
        fitted = expected_calibration_error(cross_fitted_probabilities(cosines, labels), labels)
    return ZeroShotEvaluation(
        data,
        split,
        classifier.templates,
        classification_metrics(classifier.logit_scale * cosines, labels),
        names,
        classifier.logit_scale,
        expected_calibration_error(classifier.probabilities(cosines), labels),
        fit_logit_scale(cosines, labels),
        fitted,
        tuple(source.skipped),
    )
