"""Samplers against diffusers' schedulers, step by step on the same predictions, and against a known solution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from opsin.diffusion.denoising import dynamic_threshold, keep_known, make_denoiser, slerp
from opsin.diffusion.gaussian_diffusion import GaussianDiffusion
from opsin.diffusion.samplers import (
    SAMPLERS,
    NoisePath,
    Sampler,
    ddim,
    ddpm,
    dpm_solver,
    get_sampler,
    noise_from,
    spaced_timesteps,
    unipc,
)
from opsin.errors import ConfigError

# diffusers, about numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

PROCESS = GaussianDiffusion(None, image_size=4, timesteps=100)
BETAS = PROCESS.betas.numpy()
SHAPE = (2, 3, 4, 4)


def predicted_noise(x: Tensor, timestep: int) -> Tensor:
    """A stand-in for a network: smooth, and different at each time step."""
    return torch.tanh(x * (0.3 + timestep / 100)) + 0.2 * torch.sin(3 * x + timestep)


def denoiser(x: Tensor, timestep: int) -> Tensor:
    times = torch.full((len(x),), timestep)
    return PROCESS.predict_start_from_noise(x, times, predicted_noise(x, timestep))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ours(sampler: Sampler, steps: list[int], **options: Any) -> list[Tensor]:
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, steps)
    return list(sampler(denoiser, torch.randn(SHAPE, generator=seeded()), path, noise_from(seeded(1)), **options))


def theirs(scheduler: Any, steps: list[int], **options: Any) -> list[Tensor]:
    assert scheduler.timesteps.tolist() == steps
    x = torch.randn(SHAPE, generator=seeded())
    states = []
    for timestep in scheduler.timesteps:
        x = scheduler.step(predicted_noise(x, int(timestep)), timestep, x, **options).prev_sample
        states.append(x)
    return states


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    assert len(left) == len(right)
    for mine, other in zip(left, right, strict=True):
        torch.testing.assert_close(mine, other.to(mine.dtype), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [2, 7, 20, 100])
def test_spacing_is_that_of_diffusers(spacing: str, steps: int) -> None:
    scheduler = DDIMScheduler(num_train_timesteps=100, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert spaced_timesteps(100, steps, spacing) == scheduler.timesteps.tolist()


def test_spacing_takes_each_step_once() -> None:
    for total in range(1, 40):
        for steps in range(1, total + 1):
            for spacing in ("trailing", "leading", "linspace"):
                chosen = spaced_timesteps(total, steps, spacing)
                assert len(set(chosen)) == steps
                assert chosen == sorted(chosen, reverse=True)
                assert 0 <= chosen[-1] <= chosen[0] < total
            assert spaced_timesteps(total, steps)[0] == spaced_timesteps(total, steps, "linspace")[0] == total - 1


def test_a_share_in_percent_is_exact() -> None:
    for percent in range(1, 101):
        assert len(spaced_timesteps(100, 100, share=percent / 100)) == percent
        assert spaced_timesteps(1000, 1, share=percent / 100) == [10 * percent - 1]
    assert spaced_timesteps(100, 20, share=1e-15) == [0]


def test_a_share_of_the_steps_is_the_end_of_all_of_them() -> None:
    assert spaced_timesteps(100, 20, share=0.6) == spaced_timesteps(100, 20)[8:]
    assert spaced_timesteps(100, 20, "leading", 0.6) == spaced_timesteps(100, 20, "leading")[8:]
    assert spaced_timesteps(100, 1, share=0.2) == [19], "no noisier than asked, however few the steps"
    for total in range(1, 20):
        for steps in range(1, total + 1):
            for share in (0.01, 0.2, 0.5, 0.9, 0.99):
                chosen = spaced_timesteps(total, steps, share=share)
                assert chosen[0] == math.ceil(share * total) - 1
                assert len(set(chosen)) == math.ceil(share * steps)


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 and at most 100"):
        spaced_timesteps(100, steps)


@pytest.mark.parametrize("steps", [10, 100])
def test_ddpm(steps: int) -> None:
    timesteps = spaced_timesteps(100, steps)
    scheduler = DDPMScheduler(
        num_train_timesteps=100, trained_betas=BETAS, clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(timesteps=timesteps)
    assert_same(ours(ddpm, timesteps), theirs(scheduler, timesteps, generator=seeded(1)))


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(spacing: str, eta: float) -> None:
    """diffusers takes the step before to lie at a fixed distance, which `linspace` spacing has not."""
    timesteps = spaced_timesteps(100, 10, spacing)
    scheduler = DDIMScheduler(num_train_timesteps=100, trained_betas=BETAS, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    options = {"eta": eta, "generator": seeded(1)}
    assert_same(ours(ddim, timesteps, eta=eta), theirs(scheduler, timesteps, **options))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 10, 20])
def test_dpm_solver(spacing: str, steps: int) -> None:
    timesteps = spaced_timesteps(100, steps, spacing)
    scheduler = DPMSolverMultistepScheduler(num_train_timesteps=100, trained_betas=BETAS)
    scheduler.set_timesteps(timesteps=timesteps)
    assert_same(ours(dpm_solver, timesteps), theirs(scheduler, timesteps))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20])
def test_unipc(order: int, steps: int, spacing: str) -> None:
    """On the time steps of diffusers, which with this scheduler are other ones for `leading` and `linspace`."""
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=100, trained_betas=BETAS, solver_order=order, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    assert_same(ours(unipc, timesteps, order=order), theirs(scheduler, timesteps))


def test_dynamic_thresholding_is_that_of_diffusers() -> None:
    timesteps = spaced_timesteps(100, 10)
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=100, trained_betas=BETAS, thresholding=True, sample_max_value=1e9
    )
    scheduler.set_timesteps(timesteps=timesteps)
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, timesteps)
    noise = torch.randn(SHAPE, generator=seeded())
    states = list(dpm_solver(lambda x, t: dynamic_threshold(denoiser(x, t)), noise, path, noise_from(seeded())))
    assert_same(states, theirs(scheduler, timesteps))


# ------------------------------------------------------------------------------------- a known solution

CENTRES = torch.tensor([-0.8, -0.1, 0.6])
WIDTH = 0.08


def exact_denoiser(x: Tensor, timestep: int) -> Tensor:
    """The mean of the clean value given the noisy one, where values are a mixture of three normals."""
    alpha = math.sqrt(float(PROCESS.alphas_cumprod[timestep]))
    variance = alpha**2 * WIDTH**2 + 1 - alpha**2
    gap = x[..., None] - alpha * CENTRES
    weights = torch.softmax(-(gap**2) / (2 * variance), dim=-1)
    return (weights * (CENTRES + alpha * WIDTH**2 / variance * gap)).sum(dim=-1)


def solved(sampler: Sampler, steps: int, noise: Tensor) -> Tensor:
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, spaced_timesteps(100, steps))
    return list(sampler(exact_denoiser, noise, path, noise_from(seeded())))[-1]


def test_multistep_solvers_are_better_at_ten_steps() -> None:
    """The distance from what the differential equation leads to, which 100 steps of DDIM and UniPC come close to."""
    noise = torch.randn(4000, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    exact = solved(unipc, 100, noise)
    errors = {
        name: float((solved(SAMPLERS[name], 10, noise) - exact).abs().mean())
        for name in ("ddim", "dpm-solver", "unipc")
    }
    assert errors["unipc"] < errors["dpm-solver"] < errors["ddim"]


def test_all_samplers_draw_from_the_distribution() -> None:
    noise = torch.randn(4000, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    for name, sampler in SAMPLERS.items():
        drawn = solved(sampler, 100, noise).flatten()
        nearest = (drawn[:, None] - CENTRES).abs()
        shares = torch.bincount(nearest.argmin(dim=1), minlength=3) / len(drawn)
        assert (shares - 1 / 3).abs().max() < 0.05, name
        assert float((nearest.min(dim=1).values < 4 * WIDTH).double().mean()) > 0.97, name


def test_full_ddpm_is_p_sample() -> None:
    """The sampler over all steps, and the course's loop."""

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, model_kwargs: Any) -> Tensor:
            return predicted_noise(x, int(time[0]))

    diffusion = GaussianDiffusion(Network(), image_size=4, timesteps=100)
    path = NoisePath.from_schedule(diffusion.alphas_cumprod, spaced_timesteps(100, 100))
    x = torch.randn(SHAPE, generator=seeded())
    clipped = lambda x, t: denoiser(x, t).clamp(-1, 1)  # noqa: E731
    torch.manual_seed(1)
    states = list(ddpm(clipped, x, path, noise_from(seeded(1))))
    for timestep, state in zip(reversed(range(100)), states, strict=True):
        x = diffusion.p_sample(x, timestep)
        torch.testing.assert_close(x, state, rtol=1e-3, atol=1e-3)


def test_generator_decides_what_is_drawn() -> None:
    timesteps = spaced_timesteps(100, 5)
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, timesteps)
    x = torch.randn(SHAPE, generator=seeded())
    for name, sampler in SAMPLERS.items():
        first, same, other = (list(sampler(denoiser, x, path, noise_from(seeded(seed))))[-1] for seed in (1, 1, 2))
        assert torch.equal(first, same)
        assert torch.equal(first, other) == (name != "ddpm")


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_shared_noise_keeps_equal_images_equal(eta: float) -> None:
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, spaced_timesteps(100, 5))
    x = torch.randn(SHAPE, generator=seeded())[:1].expand(SHAPE)
    shared, own = (
        list(ddim(denoiser, x, path, noise_from(seeded(1), shared=shared), eta=eta))[-1] for shared in (True, False)
    )
    torch.testing.assert_close(shared[0], shared[1])
    assert torch.allclose(own[0], own[1]) == (eta == 0)


def test_thresholds_of_a_denoiser() -> None:
    class Network(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, model_kwargs: Any) -> Tensor:
            return 3 * x + time[0]

    diffusion = GaussianDiffusion(Network(), image_size=4, timesteps=100, objective="pred_x_start")
    x = torch.randn(SHAPE, generator=seeded())
    assert torch.equal(make_denoiser(diffusion, {})(x, 1), (3 * x + 1).clamp(-1, 1))
    assert torch.equal(make_denoiser(diffusion, {}, "dynamic")(x, 1), dynamic_threshold(3 * x + 1))


def test_known_part_stays() -> None:
    known = torch.rand(SHAPE) * 2 - 1
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, spaced_timesteps(100, 10))
    for sampler in SAMPLERS.values():
        denoise = keep_known(lambda x, t: denoiser(x, t).clamp(-1, 1), known, mask)
        final = list(sampler(denoise, torch.randn(SHAPE), path, noise_from(seeded())))[-1]
        torch.testing.assert_close(final[..., :2], known[..., :2])
        assert (final[..., 2:] - known[..., 2:]).abs().max() > 0.1


def test_slerp() -> None:
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(slerp(start, end, 0.0), start)
    torch.testing.assert_close(slerp(start, end, 1.0), end, atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(start, end, 0.5), torch.tensor([1.0, 1.0]) * 3 / math.sqrt(2))
    torch.testing.assert_close(slerp(start, 3 * start, 0.5), 2 * start)
    torch.testing.assert_close(slerp(torch.zeros(2), end, 0.25), 0.25 * end)
    torch.testing.assert_close(slerp(start, torch.zeros(2), 0.25), 0.75 * start)
    assert slerp(start, -start, 0.5).isfinite().all()


def test_wrong_settings() -> None:
    path = NoisePath.from_schedule(PROCESS.alphas_cumprod, [50, 0])
    with pytest.raises(ConfigError, match="eta must be"):
        ddim(denoiser, torch.zeros(SHAPE), path, noise_from(seeded()), eta=1.5)
    with pytest.raises(ConfigError, match="order of UniPC"):
        unipc(denoiser, torch.zeros(SHAPE), path, noise_from(seeded()), order=0)
    with pytest.raises(ConfigError, match="use one of ddpm"):
        get_sampler("euler")
    with pytest.raises(ConfigError, match="use one of trailing"):
        spaced_timesteps(100, 5, "even")
    assert np.isclose(path.alphas[-1], 1.0)
