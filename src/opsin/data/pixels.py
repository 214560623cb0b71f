"""Decoding images into arrays of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from opsin.config import Bounds
from opsin.images.opening import ImageLike, StoredImage, open_image
from opsin.sources.image_source import ImageSource, map_readable


def fit_image(image: ImageLike, size: int) -> np.ndarray:
    """uint8 (3, size, size): the shorter side resized to `size` (bicubic, antialiased), the centre cropped."""
    opened = open_image(image, size=size)
    if opened.size != (size, size):
        # Cropping first gives the same picture and no huge intermediate image of a very long and thin one.
        side = min(opened.size)
        left, top = (opened.width - side) / 2, (opened.height - side) / 2
        opened = opened.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(opened).transpose(2, 0, 1))


def each_image(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """The images of a list or stream; a single image is the only one of its list.

    An array of two axes is one image, and so is one of three that ends in 1, 3 or 4 channels.
    """
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4)) else images
    return [images] if isinstance(images, str | Path | bytes | Image.Image | StoredImage) else images


def pixel_batches(images: ImageLike | Iterable[ImageLike], size: int, batch_size: int) -> Iterator[torch.Tensor]:
    """What `fit_image` makes of each image, uint8 (N, 3, size, size), opened one by one as batches are asked for.

    Raises ConfigError for a batch without room for an image.
    """
    Bounds().check("batch_size", batch_size)
    fitted = (fit_image(image, size) for image in each_image(images))
    while batch := list(islice(fitted, batch_size)):
        yield torch.from_numpy(np.stack(batch))


def load_pixels(source: ImageSource, size: int) -> tuple[ImageSource, np.ndarray]:
    """All images of a source as uint8 (N, 3, size, size), with the source reduced to the rows that could be read.

    Rows of broken images are left out of both, so that they stay aligned, and are listed in the `skipped` of the
    returned source. Raises DataError when no image at all can be read.
    """
    pixels = np.empty((len(source), 3, size, size), dtype=np.uint8)

    def fill(row: int) -> int:
        image = source.load(row, size)
        pixels[row] = fit_image(image, size)
        return row

    usable, rows = map_readable(source, fill)
    if len(usable) < len(source):
        for position, row in enumerate(rows):  # in place: a copy would need the memory twice
            pixels[position] = pixels[row]
    return usable, pixels[: len(usable)]
