"""Samplers: from noise to an image in a few steps, each a function over a denoiser.

- `ddpm`: "Denoising Diffusion Probabilistic Models" (Ho et al. 2020, algorithm 2), on any subset of the time steps
- `ddim`: "Denoising Diffusion Implicit Models" (Song et al. 2021, eq. 12 and 16)
- `dpm_solver`: DPM-Solver++(2M) ("DPM-Solver++", Lu et al. 2022, algorithm 2)
- `unipc`: "UniPC: A Unified Predictor-Corrector Framework" (Zhao et al. 2023, algorithms 5 to 8, with B2)

All of them work on the predicted clean image, the only thing that they take from the network. What has no noise in it
has none: the last step of every sampler ends in the last prediction.

Dimensions: N batch, C channels, H and W pixels, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from opsin.config import Bounds
from opsin.errors import ConfigError

Denoiser = Callable[[Tensor, int], Tensor]
"""(images (N, C, H, W) in [-1, 1] with noise, time step) to the clean images that are in them."""
NoiseSource = Callable[[Tensor], Tensor]
"""Fresh noise of the shape of these images, on their device."""
Spacing = Literal["trailing", "leading", "linspace"]
SamplerName = Literal["ddpm", "ddim", "dpm-solver", "unipc"]


def spaced_timesteps(num_timesteps: int, steps: int, spacing: str = "trailing", share: float = 1.0) -> list[int]:
    """Which `steps` of the `num_timesteps` time steps to take, from the noisiest down; with a `share` in (0, 1) that
    share of the steps, at least one, over that share of the time steps with least noise.

    After table 2 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (Lin et al. 2024): `trailing` begins
    at the last one, `linspace` begins there and, with more than one step, ends at the first one, and `leading` ends at
    the first one. Where it begins depends on the numbers: at 59 with 60 of 100 steps, and with a single step at the
    first one, where the noise to begin with passes for a nearly clean image.
    Raises ConfigError for an unknown spacing, and for less than one or more than `num_timesteps` steps.
    """
    if not 1 <= steps <= num_timesteps:
        raise ConfigError(
            f"steps must be at least 1 and at most {num_timesteps}, the steps of the model's schedule, not {steps}"
        )
    num_timesteps, steps = _share_of(num_timesteps, share), _share_of(steps, share)
    if spacing == "trailing":
        return [round((steps - index) * num_timesteps / steps) - 1 for index in range(steps)]
    if spacing == "leading":
        return [index * (num_timesteps // steps) for index in reversed(range(steps))]
    if spacing == "linspace":
        lowest = 0 if steps > 1 else num_timesteps - 1
        return [int(step) for step in np.linspace(lowest, num_timesteps - 1, steps).round()[::-1]]
    raise ConfigError(f"unknown spacing {spacing!r}: use one of {', '.join(get_args(Spacing))}")


def _share_of(count: int, share: float) -> int:
    """At least one. In floating point 0.55 of 100 is a little more than 55, which would be rounded up to 56."""
    return max(1, math.ceil(round(share * count, 9)))


@dataclass(frozen=True)
class NoisePath:
    """The S time steps that a sampler visits, and how much of image and noise there is at each of them.

    `alphas` and `sigmas` have S + 1 values: after the last step there is the image alone.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def from_schedule(cls, alphas_cumprod: Tensor, timesteps: list[int]) -> NoisePath:
        """`alphas_cumprod` (T,) is that of the model's schedule."""
        kept = alphas_cumprod.cpu().double()[timesteps].tolist()  # not every device knows float64
        alphas = (*(math.sqrt(value) for value in kept), 1.0)
        return cls(tuple(timesteps), alphas, (*(math.sqrt(1 - value) for value in kept), 0.0))

    def __len__(self) -> int:
        return len(self.timesteps)

    def half_log_snr(self, index: int) -> float:
        """log(alpha / sigma), infinite after the last step."""
        return math.log(self.alphas[index] / self.sigmas[index]) if self.sigmas[index] > 0 else math.inf


class Sampler(Protocol):
    """Yields the images after each of the S steps; `noise` makes all noise that it adds."""

    def __call__(self, denoise: Denoiser, x: Tensor, path: NoisePath, noise: NoiseSource) -> Iterator[Tensor]: ...


def ddpm(denoise: Denoiser, x: Tensor, path: NoisePath, noise: NoiseSource) -> Iterator[Tensor]:
    """Ancestral sampling: fresh noise of the posterior's variance at each step but the last."""
    return ddim(denoise, x, path, noise, eta=1.0)


def ddim(denoise: Denoiser, x: Tensor, path: NoisePath, noise: NoiseSource, *, eta: float = 0.0) -> Iterator[Tensor]:
    """The noise that was there is kept with `eta` 0, and redrawn as in ancestral sampling with `eta` 1."""
    Bounds(0, 1).check("eta", eta)
    return _ddim(denoise, x, path, noise, eta)


def _ddim(denoise: Denoiser, x: Tensor, path: NoisePath, noise: NoiseSource, eta: float) -> Iterator[Tensor]:
    for index, timestep in enumerate(path.timesteps):
        alpha, sigma = path.alphas[index], path.sigmas[index]
        next_alpha, next_sigma = path.alphas[index + 1], path.sigmas[index + 1]
        x_start = denoise(x, timestep)
        kept = (x - alpha * x_start) / sigma
        fresh = eta * next_sigma / sigma * math.sqrt(max(1 - (alpha / next_alpha) ** 2, 0.0))
        x = next_alpha * x_start + math.sqrt(max(next_sigma**2 - fresh**2, 0.0)) * kept
        if fresh > 0:
            x = x + fresh * noise(x)
        yield x


def dpm_solver(denoise: Denoiser, x: Tensor, path: NoisePath, noise: NoiseSource) -> Iterator[Tensor]:
    """Second order, from the last two predictions; first and last step are of first order. No noise is added."""
    previous: Tensor | None = None
    for index, timestep in enumerate(path.timesteps):
        x_start = denoise(x, timestep)
        next_alpha, next_sigma = path.alphas[index + 1], path.sigmas[index + 1]
        width = path.half_log_snr(index + 1) - path.half_log_snr(index)
        direction = x_start
        if previous is not None and index + 1 < len(path):
            ratio = (path.half_log_snr(index) - path.half_log_snr(index - 1)) / width
            direction = x_start + (x_start - previous) / (2 * ratio)
        x = next_sigma / path.sigmas[index] * x - next_alpha * math.expm1(-width) * direction
        previous = x_start
        yield x


def unipc(denoise: Denoiser, x: Tensor, path: NoisePath, noise: NoiseSource, *, order: int = 3) -> Iterator[Tensor]:
    """A predictor and a corrector of this order, which share their evaluations: one a step. No noise is added."""
    Bounds(1, 4).check("the order of UniPC", order)
    return _unipc(denoise, x, path, order)


def _unipc(denoise: Denoiser, x: Tensor, path: NoisePath, order: int) -> Iterator[Tensor]:
    history: list[Tensor] = []  # predictions, the newest first
    before, used = x, 0
    for index, timestep in enumerate(path.timesteps):
        x_start = denoise(x, timestep)
        if index > 0:
            x = _unified_step(path, index, before, history[:used], x_start)
        history = [x_start, *history][:order]
        used = min(order, index + 1, len(path) - index)
        before = x
        x = _unified_step(path, index + 1, before, history[:used], None)
        yield x


def _unified_step(path: NoisePath, target: int, x: Tensor, history: list[Tensor], reached: Tensor | None) -> Tensor:
    """From `x` at step `target` - 1 to `target`, by the predictions there and before; with `reached`, the prediction at
    the target itself, corrected."""
    base = path.half_log_snr(target - 1)
    width = path.half_log_snr(target) - base
    grid = [(path.half_log_snr(target - 1 - back) - base) / width for back in range(1, len(history))]
    slopes = [(older - history[0]) / place for older, place in zip(history[1:], grid, strict=True)]
    if reached is not None:
        grid, slopes = [*grid, 1.0], [*slopes, reached - history[0]]
    growth = math.expm1(-width)
    x_next = path.sigmas[target] / path.sigmas[target - 1] * x - path.alphas[target] * growth * history[0]
    for weight, slope in zip(_weights(grid, -width, growth), slopes, strict=True):
        x_next = x_next - path.alphas[target] * growth * weight * slope
    return x_next


def _weights(grid: list[float], width: float, growth: float) -> list[float]:
    """The coefficients of the slopes: they solve a Vandermonde system on the grid (Zhao et al. 2023, eq. 5)."""
    if len(grid) <= 1:
        return [0.5] * len(grid)  # the paper's choice for one slope, where the system has no say in the order
    phi = growth / width - 1
    right, factorial = [], 1
    for power in range(1, len(grid) + 1):
        right.append(phi * factorial / growth)
        factorial *= power + 1
        phi = phi / width - 1 / factorial
    vandermonde = np.vander(np.array(grid), increasing=True).T
    return [float(weight) for weight in np.linalg.solve(vandermonde, np.array(right))]


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpm-solver": dpm_solver, "unipc": unipc}


def get_sampler(name: str) -> Sampler:
    """The sampler of this name, with its default settings; ConfigError when there is none."""
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler {name!r}: use one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def noise_from(generator: torch.Generator, *, shared: bool = False) -> NoiseSource:
    """Noise whose numbers the generator's own device decides; with `shared` all images get the same."""

    def noise(like: Tensor) -> Tensor:
        shape = like[:1].shape if shared else like.shape
        return torch.randn(shape, generator=generator, device=generator.device).to(like.device).expand_as(like)

    return noise
