"""The labelled images of a classification run."""

from __future__ import annotations

from dataclasses import dataclass

from opsin.classification.config import ClassificationConfig
from opsin.data.datasets import ImageDataset, Splits, image_dataset


@dataclass(frozen=True, kw_only=True)
class ClassSplits(Splits[ImageDataset]):
    """The labelled images of a run."""

    class_names: tuple[str, ...]


def open_splits(config: ClassificationConfig) -> ClassSplits:
    """Open the data of a run. Raises DataError when it has no labels or nothing to train on."""
    run = config.split()
    datasets = {name: image_dataset(images, config.image_size) for name, images in run.splits.items()}
    return ClassSplits(datasets=datasets, source=run, class_names=run.source.class_names or ())
