"""Denoisers for the samplers: a network's predictions kept in range, and tied to the known part of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from opsin.data.pixels import fit_image
from opsin.diffusion.gaussian_diffusion import GaussianDiffusion
from opsin.diffusion.samplers import Denoiser
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike, open_image

Threshold = Literal["static", "dynamic"]
DYNAMIC_QUANTILE = 0.995


def make_denoiser(
    diffusion: GaussianDiffusion, model_kwargs: Mapping[str, Any], threshold: Threshold = "static"
) -> Denoiser:
    """The clean image that the network sees, in [-1, 1].

    `static` clips it. `dynamic` scales it down where guidance drives many pixels out of range, so that they do not all
    end at the rim ("Photorealistic Text-to-Image Diffusion Models", Saharia et al. 2022, section 2.3).
    """

    def denoise(x: Tensor, timestep: int) -> Tensor:
        times = torch.full((len(x),), timestep, device=x.device)
        x_start = diffusion.predict_x_start(x, times, model_kwargs)
        return dynamic_threshold(x_start) if threshold == "dynamic" else x_start.clamp(-1, 1)

    return denoise


def dynamic_threshold(x_start: Tensor, quantile: float = DYNAMIC_QUANTILE) -> Tensor:
    """Each image (C, H, W) clipped at this quantile of its absolute values, if above one, and divided by it."""
    limits = x_start.flatten(1).abs().quantile(quantile, dim=1).clamp(min=1)[:, None, None, None]
    return x_start.clamp(-limits, limits) / limits


def keep_known(denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """Inpainting: where `mask` is 0 the prediction is `known` (N, C, H, W) in [-1, 1], where it is 1 the network's.

    As in "RePaint" (Lugmayr et al. 2022) the network then sees the known part under the noise of each step, because the
    samplers compute the next step from the prediction; and the result has the known part exactly. There is no jumping
    back in time.
    """

    def constrained(x: Tensor, timestep: int) -> Tensor:
        return torch.where(mask > WHITE, denoise(x, timestep), known)

    return constrained


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation of vectors (…, E): direction along the great circle, length in proportion.

    Share 0 is `start` and 1 `end`. Where the two point the same way, or exactly opposite ways, or one of them is zero
    and points nowhere, it is linear.
    """
    lengths = [vector.norm(dim=-1, keepdim=True) for vector in (start, end)]
    directions = [vector / length.clamp(min=1e-12) for vector, length in zip((start, end), lengths, strict=True)]
    cosine = (directions[0] * directions[1]).sum(dim=-1, keepdim=True).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    along = (torch.sin((1 - share) * angle) * directions[0] + torch.sin(share * angle) * directions[1]) / sine
    length = (1 - share) * lengths[0] + share * lengths[1]
    nowhere = (lengths[0] == 0) | (lengths[1] == 0)
    return torch.where(nowhere | (sine < 1e-4), (1 - share) * start + share * end, along * length)


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
