"""How training images are varied."""

from __future__ import annotations

from torch import Generator, Tensor

from opsin.clip.config import AugmentConfig
from opsin.data.augment import random_augment, random_flip


def augment_images(images: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """Float images (N, 3, S, S) in [0, 1] to varied ones; each image draws its own changes."""
    if config.flip:
        images = random_flip(images, generator)
    if config.style > 0:
        images = random_augment(images, 1, config.style, generator)
    return images
