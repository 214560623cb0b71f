"""The diffusion process under the course's path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from torch import nn
from tqdm.auto import tqdm

from opsin.diffusion.gaussian_diffusion import GaussianDiffusion as LibraryDiffusion
from opsin.diffusion.gaussian_diffusion import Objective
from opsin.errors import ConfigError


class UnknownObjective(ConfigError, AssertionError):
    """The course's code asserts the objective when the process is made, and its loss raises a ValueError for it."""


class GaussianDiffusion(LibraryDiffusion):
    """The library's process, with a progress bar over the steps of `sample`."""

    def __init__(
        self,
        model: nn.Module | None,
        *,
        image_size: int,
        timesteps: int = 1000,
        objective: str = "pred_noise",
        beta_schedule: str = "sigmoid",
    ) -> None:
        if objective not in get_args(Objective):
            raise UnknownObjective(f"unknown objective {objective!r}: use one of {', '.join(get_args(Objective))}")
        super().__init__(
            model, image_size=image_size, timesteps=timesteps, objective=objective, beta_schedule=beta_schedule
        )

    def _downward(self) -> Iterable[int]:
        steps = reversed(range(self.num_timesteps))
        return tqdm(steps, desc="sampling loop time step", total=self.num_timesteps)
