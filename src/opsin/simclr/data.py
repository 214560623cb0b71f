"""The data of a run: which images are trained on or tried in between, and the two views of each image of a batch.

Views are those of "A Simple Framework for Contrastive Learning of Visual Representations" (Chen et al. 2020, section 3
and appendix A): a random part of the image, perhaps mirrored, with changed colours, perhaps without any, perhaps
blurred. Each is drawn per sample, on the images' device. Deviations are those of
`opsin.images.geometry.random_resized_crop`: boxes are not rounded to whole pixels, and parts that are larger than the
view lose pixels without being smoothed first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from opsin.data.datasets import ImageDataset, Splits, Subset, image_dataset
from opsin.data.splits import first_of_random_order
from opsin.errors import DataError
from opsin.images.augment import random_flip
from opsin.images.color import color_jitter, gaussian_blur, random_grayscale, random_rows, uniform
from opsin.images.geometry import random_resized_crop
from opsin.simclr.config import AugmentConfig, SimclrConfig
from opsin.sources.image_source import UNLABELLED, ImageSource

MOST_VALIDATED = 1_000
MOST_NEIGHBOURS = 5_000
"""Images that a validation looks at, at most, and training images among which it looks for their neighbours: all of
them would take longer than what is trained in between."""


@dataclass(frozen=True, kw_only=True)
class SimclrSplits(Splits[ImageDataset]):
    """Training images, and where there are any, held-out ones. `bank` are those training images, whose labels are
    known, among which a validation looks for their neighbours; None where there are no classes to tell apart."""

    bank: ImageDataset | None
    num_classes: int

    @property
    def is_labelled(self) -> bool:
        return self.bank is not None


def open_splits(config: SimclrConfig) -> SimclrSplits:
    """The images that a run uses. Neighbours need labels of at least two classes.

    Raises DataError when the source cannot be used, and for a single training image.
    """
    run = config.split()
    source, rows = run.source, run.rows
    train = image_dataset(run.training, config.image_size)
    if len(train) == 1:
        own_val = source.splits is not None and "val" in source.splits
        beside = ""
        if len(rows["val"]) and not own_val and config.max_train != 1:
            beside = f" beside {len(rows['val'])} held out to validate on (--val-fraction 0 trains on all)"
        raise DataError(
            f"there is one image only to train on, of {source.name!r}{beside}; learning to tell images apart takes at "
            "least two"
        )
    datasets = {"train": train}
    validated = first_of_random_order(rows["val"], MOST_VALIDATED, config.seed, "validated")
    if len(validated):
        datasets["val"] = image_dataset(source.select(validated), config.image_size)
    bank = None
    if _has_classes(source, rows["train"], validated):
        places = first_of_random_order(np.arange(len(train)), MOST_NEIGHBOURS, config.seed, "neighbours")
        bank = Subset(train, places.tolist())
    num_classes = len(source.class_names or ())
    return SimclrSplits(datasets=datasets, source=run, bank=bank, num_classes=num_classes)


def _has_classes(source: ImageSource, train: np.ndarray, val: np.ndarray) -> bool:
    """Whether at least half of these images have labels, the training images of at least two classes."""
    if source.labels is None:
        return False
    known = [source.labels[rows] != UNLABELLED for rows in (train, val) if len(rows)]
    classes = set(source.labels[train].tolist()) - {UNLABELLED}
    return len(classes) > 1 and all(part.mean() >= 0.5 for part in known)


BLUR = (0.1 / 224, 2.0 / 224)
"""Standard deviations of the paper, for images of 224 pixels, as shares of the view's side."""
BLUR_KERNEL = 0.1
"""Side of the paper's kernel as a share of the view's side."""


def two_views(images: Tensor, size: int, config: AugmentConfig, generator: Generator) -> Tensor:
    """Float images (N, 3, H, W) in [0, 1] to (2N, 3, size, size): a view of each, then a second one of each.

    So `.chunk(2)` gives both halves, in which row i shows image i. `generator` is on the images' device.
    """
    return random_view(torch.cat([images, images]), size, config, generator)


def random_view(images: Tensor, size: int, config: AugmentConfig, generator: Generator) -> Tensor:
    """A view of each image: float (N, 3, H, W) in [0, 1] to (N, 3, size, size)."""
    views = random_resized_crop(images, size, generator, scale=(config.min_crop, 1.0))
    if config.flip:
        views = random_flip(views, generator)
    rows = random_rows(len(views), config.jitter, generator)
    changed = color_jitter(views[rows], config.brightness, config.contrast, config.saturation, config.hue, generator)
    views = random_grayscale(views.index_copy(0, rows, changed), config.grayscale, generator)
    if config.blur > 0:
        views = _random_blur(views, config.blur, generator)
    return views


def _random_blur(views: Tensor, probability: float, generator: Generator) -> Tensor:
    size = views.shape[-1]
    rows = random_rows(len(views), probability, generator)
    sigmas = size * uniform(len(rows), *BLUR, generator)
    return views.index_copy(0, rows, gaussian_blur(views[rows], sigmas, 2 * round(BLUR_KERNEL * size / 2) + 1))
