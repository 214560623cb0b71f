"""Masks: which part of an image may change."""

from __future__ import annotations

import torch
from torch import Tensor

from opsin.data.pixels import fit_image
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike, open_image

WHITE = 0.5
"""What is brighter, from 0 to 1, may change."""


def read_mask(mask: ImageLike, image: tuple[int, int], image_size: int) -> Tensor:
    """float32 (1, 1, S, S), from 0 for black to 1 for white, cut and reduced as the image of that width and height is.

    What can be seen through is not white: transparency is laid over black.
    Raises DataError for a broken mask, ConfigError for one of another shape than the image and one without white.
    """
    covering = open_image(mask, background="black")
    _refuse_other_shape(image, covering.size)
    brightness = fit_image(covering, image_size).mean(axis=0) / 255
    if not (brightness > WHITE).any():
        raise ConfigError(
            f"nothing in the mask is white once it is cut to a square and reduced to {image_size} x {image_size} "
            "pixels, so nothing would change: make the white part larger, and white (255 of 255)"
        )
    return torch.from_numpy(brightness).float()[None, None]


def _refuse_other_shape(image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Both are cropped to their centre: of different shapes, they would no longer lie on each other."""
    # Scaled to whole pixels, each side is off by half a pixel at most.
    if 2 * abs(image[0] * mask[1] - image[1] * mask[0]) > max(sum(image), sum(mask)):
        raise ConfigError(
            f"a mask of {mask[0]} x {mask[1]} pixels does not lie on an image of {image[0]} x {image[1]}: make it as "
            "large as the image, or of the same proportions"
        )
