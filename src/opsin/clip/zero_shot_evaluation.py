"""Judging zero-shot classification on a labelled source, whose class names are the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opsin.clip.calibration import cross_fitted_probabilities, expected_calibration_error, fit_logit_scale
from opsin.clip.zero_shot import DEFAULT_TEMPLATES, ZeroShotClassifier
from opsin.data.images import Skipped
from opsin.data.pixels import map_rows
from opsin.data.sources import ImageSource, open_labelled
from opsin.encoders.base import BATCH_SIZE, ImageTextEncoder, batched
from opsin.errors import DataError
from opsin.training.metrics import ClassificationMetrics, classification_metrics


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
        return f"{self.metrics.count} images of {self.data!r}, split {self.split!r}, zero-shot, {prompts}"


def evaluate_zero_shot(
    encoder: ImageTextEncoder,
    data: str,
    split: str | None = None,
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
) -> ZeroShotEvaluation:
    """Classify a split of a labelled source by its class names; without `split` its test split, or else all of it.

    Only classes with images in the source take part; underscores in their names are read as spaces. Raises DataError
    when the source has no labels, no such split, or no image that can be read; ConfigError for templates and names that
    cannot be used.
    """
    source = open_labelled(data)
    assert source.labels is not None and source.class_names is not None
    present = np.unique(source.labels)
    names = tuple(source.class_names[index] for index in present)
    source = source.relabel(np.searchsorted(present, source.labels), names)
    if split is None:
        split = "test" if source.splits is not None and bool((source.splits == "test").any()) else "all"
    if split != "all":
        source = source.split(split)
    classifier = ZeroShotClassifier(encoder, {name: (name.replace("_", " "),) for name in names}, templates=templates)
    source, cosines = _cosines(source, classifier)
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


def _cosines(source: ImageSource, classifier: ZeroShotClassifier) -> tuple[ImageSource, Tensor]:
    """Cosines (N, K) of the images that can be read, and the source reduced to these, the others in its `skipped`."""

    def load(row: int) -> Image.Image | DataError:
        try:
            return source.load(row)
        except DataError as error:
            return error

    def loaded(batch: list[int]) -> Iterator[Image.Image | DataError]:
        return map_rows(lambda place: load(batch[place]), len(batch))

    rows: list[int] = []
    parts: list[Tensor] = []
    skipped: list[Skipped] = []
    for batch in batched(range(len(source)), BATCH_SIZE):
        images: list[Image.Image] = []
        for row, image in zip(batch, loaded(batch), strict=True):
            if isinstance(image, DataError):
                skipped.append(Skipped(source.ids[row], str(image)))
            else:
                rows.append(row)
                images.append(image)
        if images:
            parts.append(classifier.cosines(images))
    if not parts:
        reason = f"; the first: {skipped[0].reason}" if skipped else ""
        raise DataError(f"none of the {len(source)} images of {source.name!r} can be read{reason}")
    usable = replace(source.select(np.array(rows)), skipped=[*source.skipped, *skipped])
    return usable, torch.cat(parts)
