"""The diffusion process: noise schedules, adding noise, the training loss, and taking noise away again step by step.

"Denoising Diffusion Probabilistic Models" (Ho et al. 2020); v-prediction from "Progressive Distillation for Fast
Sampling of Diffusion Models" (Salimans and Ho 2022); min-SNR weights from "Efficient Diffusion Training via Min-SNR
Weighting Strategy" (Hang et al. 2023). Schedules: linear from Ho et al., cosine from "Improved Denoising Diffusion
Probabilistic Models" (Nichol and Dhariwal 2021), sigmoid from "Scalable Adaptive Computation for Iterative Generation"
(Jabri et al. 2023). Faster samplers over the same networks are in `opsin.diffusion.samplers`.

Dimensions: N batch, C channels, H and W pixels, T time steps, the first of which, 0, has the least noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from opsin.errors import ConfigError
from opsin.runtime import evaluating

Objective = Literal["pred_noise", "pred_x_start", "pred_v"]


class GaussianDiffusion(nn.Module):
    """A network together with its noise schedule; images inside are in [-1, 1]."""

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    posterior_std: Tensor
    loss_weight: Tensor

    def __init__(
        self,
        model: nn.Module | None,
        *,
        image_size: int,
        timesteps: int = 1000,
        objective: str = "pred_noise",
        beta_schedule: str = "sigmoid",
        min_snr_gamma: float | None = None,
        channels: int = 3,
    ) -> None:
        """`model(x, time, model_kwargs)` predicts what `objective` says; it may be None for the process alone.

        The loss of `pred_x_start` is weighted by the signal-to-noise ratio, the others' are not; with `min_snr_gamma`
        each objective has the weight that comes to min(SNR, gamma) for the clean image. Raises ConfigError for an
        unknown objective and for what `make_betas` refuses.
        """
        super().__init__()
        if objective not in get_args(Objective):
            raise ConfigError(f"unknown objective {objective!r}: use one of {', '.join(get_args(Objective))}")
        if min_snr_gamma is not None and not min_snr_gamma > 0:
            raise ConfigError(f"min_snr_gamma must be above zero, not {min_snr_gamma}")
        self.model = model
        self.image_size = image_size
        self.num_timesteps = timesteps
        self.objective = objective
        self.channels = channels

        betas = make_betas(beta_schedule, timesteps)
        alphas = 1 - betas
        cumprod = alphas.cumprod(dim=0)
        previous = torch.cat([cumprod.new_ones(1), cumprod[:-1]])
        buffers = {
            "betas": betas,
            "alphas": alphas,
            "alphas_cumprod": cumprod,
            "sqrt_alphas_cumprod": cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - cumprod).sqrt(),
            "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumprod),
            "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumprod),
            "posterior_std": (betas * (1 - previous) / (1 - cumprod)).clamp(min=1e-20).sqrt(),
            "loss_weight": _loss_weight(cumprod / (1 - cumprod), objective, min_snr_gamma),
        }
        for name, values in buffers.items():
            self.register_buffer(name, values.float())

    # ----------------------------------------------------------------------------------------- the process

    def normalize(self, images: Tensor) -> Tensor:
        """[0, 1] to [-1, 1]."""
        return images * 2 - 1

    def unnormalize(self, images: Tensor) -> Tensor:
        """[-1, 1] to [0, 1]."""
        return (images + 1) / 2

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What is left of `x_start` (N, C, H, W) at time steps `t` (N,), plus noise like it (Ho et al. eq. 4)."""
        return _at(self.sqrt_alphas_cumprod, t) * x_start + _at(self.sqrt_one_minus_alphas_cumprod, t) * noise

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The image that became `x_t` with this noise."""
        return (x_t - _at(self.sqrt_one_minus_alphas_cumprod, t) * noise) / _at(self.sqrt_alphas_cumprod, t)

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """The noise with which `x_start` became `x_t`."""
        return (x_t - _at(self.sqrt_alphas_cumprod, t) * x_start) / _at(self.sqrt_one_minus_alphas_cumprod, t)

    def predict_start_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """The image of `x_t` with velocity `v` (Salimans and Ho 2022, appendix D)."""
        return _at(self.sqrt_alphas_cumprod, t) * x_t - _at(self.sqrt_one_minus_alphas_cumprod, t) * v

    def predict_v(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The velocity: how `x_t` changes with the angle between image and noise."""
        return _at(self.sqrt_alphas_cumprod, t) * noise - _at(self.sqrt_one_minus_alphas_cumprod, t) * x_start

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (N, C, H, W) and standard deviation (N, 1, 1, 1) of the step before `t` (Ho et al. eq. 6 and 7)."""
        mean = _at(self.posterior_mean_coef1, t) * x_start + _at(self.posterior_mean_coef2, t) * x_t
        return mean, _at(self.posterior_std, t)

    # ---------------------------------------------------------------------------------------------- training

    def p_losses(self, x_start: Tensor, model_kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """The weighted mean squared error of one batch of images (N, C, H, W) in [0, 1], a scalar.

        Time steps, then noise, are drawn from torch's default generator, before what the model draws.
        """
        x_start = self.normalize(x_start)
        t = torch.randint(0, self.num_timesteps, (len(x_start),), device=x_start.device)
        return self.losses_at(x_start, t, torch.randn_like(x_start), model_kwargs).mean()

    def losses_at(
        self, x_start: Tensor, t: Tensor, noise: Tensor, model_kwargs: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The weighted squared error (N,) of each image (N, C, H, W) in [-1, 1] at its time step with this noise."""
        predicted = self._network(self.q_sample(x_start, t, noise), t, model_kwargs).float()
        if self.objective == "pred_noise":
            target = noise
        elif self.objective == "pred_x_start":
            target = x_start
        else:
            target = self.predict_v(x_start, t, noise)
        return self.loss_weight[t] * (predicted - target).square().mean(dim=(1, 2, 3))

    # ---------------------------------------------------------------------------------------------- sampling

    def predict_x_start(self, x_t: Tensor, t: Tensor, model_kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """The clean image (N, C, H, W) that the network sees in `x_t`, whatever it predicts; not clipped."""
        output = self._network(x_t, t, model_kwargs).float()
        if self.objective == "pred_noise":
            return self.predict_start_from_noise(x_t, t, output)
        return output if self.objective == "pred_x_start" else self.predict_start_from_v(x_t, t, output)

    @torch.no_grad()
    def p_sample(self, x_t: Tensor, t: int, model_kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """One step of Ho et al., algorithm 2, from time step `t` down, in the mode that the network is in."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        x_start = self.predict_x_start(x_t, times, model_kwargs).clamp(-1, 1)
        mean, std = self.q_posterior(x_start, x_t, times)
        return mean + std * torch.randn_like(x_t)

    @torch.no_grad()
    def sample(
        self,
        batch_size: int = 16,
        return_all_timesteps: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Images (N, C, H, W), about in [0, 1], by all T steps from noise of torch's default generator.

        With `return_all_timesteps` (N, T + 1, C, H, W), the noise first. The network is in evaluation mode meanwhile,
        so that no condition is left out and nothing dropped; afterwards each part of it is in its own mode again.
        """
        with evaluating(self):
            shape = (batch_size, self.channels, self.image_size, self.image_size)
            x = torch.randn(shape, device=self.betas.device)
            trajectory = [x]
            for t in self._downward():
                x = self.p_sample(x, t, model_kwargs)
                if return_all_timesteps:
                    trajectory.append(x)
        return self.unnormalize(torch.stack(trajectory, dim=1) if return_all_timesteps else x)

    def _downward(self) -> Iterable[int]:
        return reversed(range(self.num_timesteps))

    @property
    def _network(self) -> Callable[..., Tensor]:
        if self.model is None:
            raise ConfigError("this diffusion process was made without a network")
        return self.model


def _loss_weight(snr: Tensor, objective: str, gamma: float | None) -> Tensor:
    """(T,) for the signal-to-noise ratios (T,); Hang et al. 2023, section 3.4."""
    capped = snr if gamma is None else snr.clamp(max=gamma)
    if objective == "pred_x_start":
        return capped
    if gamma is None:
        return torch.ones_like(snr)
    return capped / (snr if objective == "pred_noise" else snr + 1)


def _at(values: Tensor, t: Tensor) -> Tensor:
    """(N, 1, 1, 1): the value of each image's time step."""
    return values[t].view(-1, 1, 1, 1)


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
