"""Noise schedules: how much of the image is left at each time step.

Linear from "Denoising Diffusion Probabilistic Models" (Ho et al. 2020), cosine from "Improved Denoising Diffusion
Probabilistic Models" (Nichol and Dhariwal 2021), sigmoid from "Scalable Adaptive Computation for Iterative Generation"
(Jabri et al. 2023).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from opsin.errors import ConfigError

BetaSchedule = Literal["linear", "cosine", "sigmoid"]


def make_betas(schedule: str, timesteps: int) -> Tensor:
    """float64 (timesteps,), on the CPU: the share of variance that each step replaces by noise.

    Raises ConfigError for an unknown schedule, for less than one step, and for so few steps of the linear schedule
    that one of them would take more than all of the image.
    """
    if timesteps < 1:
        raise ConfigError(f"timesteps must be at least 1, not {timesteps}")
    if schedule == "linear":
        scale = 1000 / timesteps
        betas = torch.linspace(scale * 0.0001, scale * 0.02, timesteps, dtype=torch.float64, device="cpu")
        if betas[-1] >= 1:
            raise ConfigError(
                f"the linear schedule needs more than 20 time steps, not {timesteps}: its last step would take more "
                "than all of the image; use more timesteps, or the schedule cosine or sigmoid"
            )
        return betas
    times = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64, device="cpu")
    if schedule == "cosine":
        alphas_cumprod = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    elif schedule == "sigmoid":
        # The course's values come out with these two in float32.
        high, low = torch.tensor([3.0, -3.0], device="cpu").sigmoid()
        alphas_cumprod = (high - torch.sigmoid(6 * times - 3)) / (high - low)
    else:
        raise ConfigError(f"unknown schedule {schedule!r}: use one of {', '.join(get_args(BetaSchedule))}")
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(0, 0.999)
