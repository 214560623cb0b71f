"""Two views of each image of a batch, drawn per sample, on the images' device.

SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", section 3 and
appendix A): a random part of the image, perhaps mirrored, with changed colours, perhaps without any, perhaps blurred.
Deviations are those of `opsin.images.geometry.random_resized_crop`: boxes are not rounded to whole pixels, and parts
that are larger than the view lose pixels without being smoothed first.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from opsin.images.augment import random_flip
from opsin.images.color import color_jitter, gaussian_blur, random_grayscale, random_rows, uniform
from opsin.images.geometry import random_resized_crop
from opsin.simclr.config import AugmentConfig

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
