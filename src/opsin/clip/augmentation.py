"""How training images are varied, so that things are known again in a drawing style that was never seen.

A style differs from another in colours, background, outlines, shading and sharpness, and in the proportions of what it
draws; each of these is varied by itself, for a share of the images only: the usual look has to stay the most frequent
one, and most of these changes cost time.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from opsin.clip.config import AugmentConfig
from opsin.images.augment import random_flip
from opsin.images.color import (
    color_jitter,
    gaussian_blur,
    invert_lightness,
    morphology,
    outline,
    random_grayscale,
    random_rows,
    recolor_background,
    shade,
    uniform,
)
from opsin.images.geometry import random_affine

LARGEST_BLUR = 1 / 32
"""Standard deviation of the strongest blur, as a share of the image's side."""


def augment_images(images: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """Float images (N, 3, S, S) in [0, 1] to varied ones; each image draws its own changes."""
    if config.flip:
        images = random_flip(images, generator)
    if config.style > 0:
        images = vary_style(images, config.style, generator)
    if config.geometry > 0:
        strength = config.geometry
        images = random_affine(
            images,
            generator,
            degrees=30 * strength,
            scale=(1 - 0.4 * strength, 1 + 0.4 * strength),
            translate=0.15 * strength,
            bend=0.08 * strength,
        )
    return images


def vary_style(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Changes of drawing style, each for a share of the images that grows with `strength` in 0 to 1.

    The order is that of drawing: outlines, colours and light, background, and then the picture as a whole.
    """
    N, device = len(images), images.device
    images = images.clone()

    rows = random_rows(N, 0.5 * strength, generator)
    images[rows] = morphology(images[rows], uniform(len(rows), -1, 1, generator).to(device))
    rows = random_rows(N, 0.1 * strength, generator)
    images[rows] = outline(images[rows])
    rows = random_rows(N, 0.8 * strength, generator)
    images[rows] = color_jitter(images[rows], 0.4, 0.4, 0.6, 0.1, generator)
    images = random_grayscale(images, 0.1 * strength, generator)

    rows = random_rows(N, 0.3 * strength, generator)
    angles = uniform(len(rows), -math.pi, math.pi, generator).to(device)
    images[rows] = shade(images[rows], angles, uniform(len(rows), 0, 0.5, generator).to(device))
    rows = random_rows(N, 0.3 * strength, generator)
    colors = torch.rand(len(rows), 3, generator=generator, device=generator.device).to(device)
    images[rows] = recolor_background(images[rows], colors)
    rows = random_rows(N, 0.1 * strength, generator)
    images[rows] = invert_lightness(images[rows])

    rows = random_rows(N, 0.3 * strength, generator)
    sigmas = images.shape[-1] * LARGEST_BLUR * uniform(len(rows), 0.1, 1, generator).to(device)
    kernel_size = 2 * math.ceil(2 * images.shape[-1] * LARGEST_BLUR) + 1
    images[rows] = gaussian_blur(images[rows], sigmas, kernel_size)
    return images
