"""Drawings: how they are asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opsin.config import Config
from opsin.diffusion.config import GuidanceScale
from opsin.diffusion.denoising import Threshold
from opsin.diffusion.samplers import SamplerName, Spacing, get_sampler
from opsin.errors import ConfigError

DEFAULT_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Sampling(Config):
    """How images are drawn.

    `guidance_scale` w is that of Ho and Salimans, `(w + 1) * conditional - w * unconditional`: 0 is the plain
    conditional model, -1 one that does not look at the prompt. Libraries that write `unconditional + s * (conditional -
    unconditional)` call w + 1 by that name.
    """

    guidance_scale: GuidanceScale = 2.0
    steps: int | None = None
    """Calls of the network for each image; None takes 20, or all time steps of a model that has fewer."""
    sampler: SamplerName = "dpm-solver"
    spacing: Spacing = "trailing"
    threshold: Threshold = "static"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold not in ("static", "dynamic"):
            raise ConfigError(f"threshold must be static or dynamic, not {self.threshold!r}")
        get_sampler(self.sampler)

    def steps_of(self, num_timesteps: int) -> int:
        """How many steps that is for a model with so many time steps."""
        return min(DEFAULT_STEPS, num_timesteps) if self.steps is None else self.steps


@dataclass(frozen=True)
class Generation:
    """Images of one prompt. With a trajectory, each image's states are in `trajectory`, the noise first."""

    prompt: str
    images: tuple[Image.Image, ...]
    trajectory: tuple[tuple[Image.Image, ...], ...] = ()


class DrawingModel(Protocol):
    """What draws and can be judged; `opsin.diffusion.inference.TextToImage` is one."""

    precision: str
    """That of drawing, never auto."""

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num_images: int = ...,
        sampling: Sampling | None = ...,
        generator: torch.Generator | None = ...,
    ) -> list[Generation]: ...


def images_of(images: Tensor) -> list[Image.Image]:
    """Pictures of (N, 3, H, W) in [-1, 1]; what is outside is clipped."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels.numpy()]
