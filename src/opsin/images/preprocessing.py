"""How images become the input of a model; saved with the model, so that it is applied the same everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from opsin.config import Bounds, Config

STATISTICS_IMAGES = 4096
ImageSize = Annotated[int, Bounds(1, 4096)]
"""Side of network input, in pixels. A model that asks for more is damaged: one image would take gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Config):
    """Resize the shorter side to `image_size`, crop the centre, scale to [0, 1], subtract `mean`, divide by `std`.

    `mean` and `std` are per channel (red, green, blue), in units of [0, 1].
    """

    image_size: ImageSize
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def normalize(self, images: Tensor) -> Tensor:
        """Float images (N, 3, H, W) in [0, 1] to network input of the same shape."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (images - mean) / std

    def restore(self, images: Tensor) -> Tensor:
        """The uint8 images (N, 3, H, W) that `prepare` made this network input of."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 images (N, 3, H, W) to network input."""
        return self.normalize(pixels.float() / 255)


def channel_statistics(pixels: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel of uint8 (N, 3, H, W), in units of [0, 1], rounded to 4 digits.

    At most 4,096 images, evenly spread, are looked at. A deviation of zero (one flat colour) is returned as one.
    """
    counts = np.zeros((3, 256), dtype=np.int64)  # of each value; as floats, so many large images would fill the memory
    for image in pixels[:: max(1, math.ceil(len(pixels) / STATISTICS_IMAGES))]:
        for channel in range(3):
            counts[channel] += np.bincount(image[channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    std = np.where(std < 1e-3, 1.0, std)
    red, green, blue = (round(float(value), 4) for value in mean)
    red_std, green_std, blue_std = (round(float(value), 4) for value in std)
    return (red, green, blue), (red_std, green_std, blue_std)
