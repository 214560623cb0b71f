"""Denoisers for the samplers: a network's predictions kept in range, and tied to the known part of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from opsin.diffusion.gaussian_diffusion import GaussianDiffusion
from opsin.diffusion.masks import WHITE
from opsin.diffusion.samplers import Denoiser

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
