"""The data of a run: batches of images with their place in a table of captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opsin.clip.config import ClipConfig
from opsin.data.datasets import ImageDataset, Splits, numbered_dataset
from opsin.sources.image_source import ImageSource


class CaptionedImages:
    """Batches {"image": uint8 (N, 3, S, S), "row": int64 (N,), "group": int64 (N,)}; `row` is the image's place in
    `source`, and images of one group have the same first caption."""

    def __init__(self, source: ImageSource, images: ImageDataset) -> None:
        """`images` must give each image's row in `source` as its label: broken images leave gaps."""
        assert source.captions is not None
        self.source = source
        self.images = images
        self.captions: Sequence[tuple[str, ...]] = source.captions
        self.groups = torch.from_numpy(caption_groups(self.captions))
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.images.__getitems__(indices)
        return {"image": batch["image"], "row": batch["label"], "group": self.groups[batch["label"]]}


def open_splits(config: ClipConfig) -> Splits[CaptionedImages]:
    """Open the data of a run. Raises DataError when it has no captions or nothing to train on."""
    run = config.split()
    datasets = {name: captioned_images(images, config.image_size) for name, images in run.splits.items()}
    return Splits(datasets=datasets, source=run)


def captioned_images(source: ImageSource, image_size: int) -> CaptionedImages:
    """Batches of the images of a source that all have captions."""
    return CaptionedImages(source, numbered_dataset(source, image_size))


def caption_groups(captions: Sequence[tuple[str, ...]]) -> np.ndarray:
    """int64 (N,): the number of each image's first caption among all different ones, in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(texts[0], len(numbers)) for texts in captions], dtype=np.int64)
