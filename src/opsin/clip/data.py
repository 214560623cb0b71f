"""The data of a run: batches of images with their place in a table of captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from opsin.clip.config import ClipConfig
from opsin.data.datasets import ImageDataset, Splits, numbered_dataset
from opsin.domain import SIDE
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.features import cached_features, views_of
from opsin.progress import Progress
from opsin.sources.image_source import ImageSource


class CaptionedImages:
    """Batches {"image": uint8 (N, 3, S, S), "row": int64 (N,), "group": int64 (N,)}; `row` is the image's place in
    `source`, and images of one group have the same first caption. With a locked encoder they have "vectors" as well."""

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
        rows = batch.pop("label")
        return {**batch, "row": rows, "group": self.groups[rows]}


class EncodedImages:
    """Small images with vectors of an encoder: what `ImageDataset` has, and "vectors" float32 (N, V, D) for V views of
    each image."""

    def __init__(self, images: ImageDataset, vectors: Tensor) -> None:
        """Row i of the vectors is that of the source which the images have as their label."""
        self.images = images
        self.vectors = vectors
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.images.__getitems__(indices)
        return {**batch, "vectors": self.vectors[batch["label"]]}


def open_splits(
    config: ClipConfig, encoder: NetworkEncoder | None = None, progress: Progress | None = None
) -> Splits[CaptionedImages]:
    """Open the data of a run; images are vectors of the `encoder` where there is one. Raises DataError when it has no
    captions or nothing to train on."""
    run = config.split()
    if encoder is not None:
        datasets = {name: encoded_images(images, encoder, progress) for name, images in run.splits.items()}
        return Splits(datasets=datasets, source=run, needs=config.image_encoder)
    datasets = {name: captioned_images(images, config.image_size) for name, images in run.splits.items()}
    return Splits(datasets=datasets, source=run)


def encoded_images(source: ImageSource, encoder: NetworkEncoder, progress: Progress | None = None) -> CaptionedImages:
    """Batches of the images of a source that all have captions, as vectors of views from the cache, the image itself
    first."""

    def encode(images: list[Image.Image]) -> Tensor:
        # Mirrored as well: captions seldom tell left from right.
        views = [view for own in map(views_of, images) for view in (*own, *map(ImageOps.mirror, own))]
        return encoder.encode_image(views, normalize=False).view(len(images), len(views) // len(images), -1).half()

    usable, vectors = cached_features(source, encoder, "caption views", encode, progress=progress)
    own = torch.from_numpy(np.array(vectors, dtype=np.float32))
    return CaptionedImages(usable, EncodedImages(numbered_dataset(usable, SIDE), own))


def captioned_images(source: ImageSource, image_size: int) -> CaptionedImages:
    """Batches of the images of a source that all have captions."""
    return CaptionedImages(source, numbered_dataset(source, image_size))


def caption_groups(captions: Sequence[tuple[str, ...]]) -> np.ndarray:
    """int64 (N,): the number of each image's first caption among all different ones, in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(texts[0], len(numbers)) for texts in captions], dtype=np.int64)
