"""The U-Net and the process: guidance, shapes, modes, schedules, and the weights of the losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.gaussian_diffusion import GaussianDiffusion, make_betas
from opsin.diffusion.model import build_model
from opsin.diffusion.unet import RMSNorm, Unet
from opsin.errors import ConfigError


@pytest.fixture
def unet() -> Unet:
    torch.manual_seed(0)
    return Unet(dim=8, condition_dim=5, dim_mults=(1, 2))


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8), torch.randint(0, 50, (count,)), torch.randn(count, 5)


class Counting(Unet):
    """Counts the batches that go through the network."""

    def __init__(self) -> None:
        super().__init__(dim=8, condition_dim=5, dim_mults=(1, 2))
        self.batches: list[int] = []
        self.init_conv.register_forward_hook(lambda module, args, output: self.batches.append(len(output)))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 2.31, 7])
def test_guidance_is_one_doubled_batch_in_evaluation(scale: float) -> None:
    network = Counting().eval()
    x, time, text_emb = inputs()
    with torch.no_grad():
        conditional = network(x, time, {"text_emb": text_emb})
        unconditional = network(x, time, {"text_emb": None})
        network.batches.clear()
        guided = network(x, time, {"text_emb": text_emb, "cfg_scale": scale})
    assert network.batches == ([3] if scale == 0 else [6])
    expected = (scale + 1) * conditional - scale * unconditional
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)


def test_guidance_is_two_calls_in_training() -> None:
    """Each draws its own random numbers, in the order of the notebook."""
    network = Counting()
    x, time, text_emb = inputs()
    torch.manual_seed(2)
    guided = network(x, time, {"text_emb": text_emb, "cfg_scale": 1.5})
    assert network.batches == [3, 3]
    torch.manual_seed(2)
    conditional = network(x, time, {"text_emb": text_emb})
    unconditional = network(x, time)
    torch.testing.assert_close(guided, 2.5 * conditional - 1.5 * unconditional)


def test_arguments_stay_as_they_are(unet: Unet) -> None:
    x, time, text_emb = inputs()
    given = {"text_emb": text_emb, "cfg_scale": 2.0, "text": ["a", "b", "c"]}
    copies = (x.clone(), time.clone(), text_emb.clone())
    for training in (True, False):
        unet.train(training)(x, time, given)
    assert list(given) == ["text_emb", "cfg_scale", "text"]
    assert given["text_emb"] is text_emb
    assert all(torch.equal(mine, copy) for mine, copy in zip((x, time, text_emb), copies, strict=True))


def test_no_text_is_zeros_and_other_texts_differ(unet: Unet) -> None:
    x, time, text_emb = inputs()
    unet.eval()
    torch.testing.assert_close(unet(x, time, {"text_emb": torch.zeros(3, 5)}), unet(x, time))
    assert (unet(x, time, {"text_emb": text_emb}) - unet(x, time)).abs().max() > 1e-3


@pytest.mark.parametrize(("probability", "same"), [(0.0, False), (1.0, True)])
def test_conditions_are_left_out_in_training_only(probability: float, same: bool) -> None:
    torch.manual_seed(0)
    network = Unet(dim=8, condition_dim=5, dim_mults=(1, 2), uncond_prob=probability)
    x, time, text_emb = inputs()
    results = []
    for condition in (text_emb, None):
        torch.manual_seed(3)
        results.append(network(x, time, {"text_emb": condition}))
    assert torch.equal(*results) == same
    network.eval()
    assert not torch.equal(network(x, time, {"text_emb": text_emb}), network(x, time))


def test_norm_is_the_written_formula() -> None:
    norm = RMSNorm(6)
    torch.nn.init.normal_(norm.g)
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(norm(x), F.normalize(x, dim=1) * norm.g * math.sqrt(6))


def test_channels_last_and_bf16_are_close(unet: Unet) -> None:
    x, time, text_emb = inputs()
    unet.eval()
    expected = unet(x, time, {"text_emb": text_emb})
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(unet(x, time, {"text_emb": text_emb}), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        rough = unet(x, time, {"text_emb": text_emb})
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [2.0, 1e6])
def test_guidance_is_combined_in_float32(unet: Unet, precision: torch.dtype, scale: float) -> None:
    """Under autocast only the network's own outputs are rounded, and a huge scale overflows nothing."""
    x, time, text_emb = inputs()
    unet.eval()
    with torch.no_grad(), torch.autocast("cpu", precision):
        both = unet(torch.cat([x, x]), torch.cat([time, time]), {"text_emb": torch.cat([text_emb, 0 * text_emb])})
        guided = unet(x, time, {"text_emb": text_emb, "cfg_scale": scale})
    assert (both.dtype, guided.dtype) == (precision, torch.float32)
    conditional, unconditional = both.float().chunk(2)
    assert guided.isfinite().all()
    assert torch.equal(guided, (scale + 1) * conditional - scale * unconditional)
    with torch.autocast("cpu", precision):
        trained = unet.train()(x, time, {"text_emb": text_emb, "cfg_scale": scale})
    assert trained.dtype == torch.float32
    assert trained.isfinite().all()


def test_bf16_guidance_is_close(unet: Unet) -> None:
    x, time, text_emb = inputs()
    given = {"text_emb": text_emb, "cfg_scale": 2.0}
    unet.eval()
    expected = unet(x, time, given)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(unet(x, time, given), expected, rtol=0.1, atol=0.2)


def test_embeddings_of_any_precision(unet: Unet) -> None:
    x, time, text_emb = inputs()
    rounded = text_emb.half()
    expected = unet.eval()(x, time, {"text_emb": rounded.float()})
    for given in (rounded, rounded.double()):
        assert torch.equal(unet(x, time, {"text_emb": given}), expected)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_models_leave_out_as_many_texts_as_their_settings_say(probability: float) -> None:
    settings = UnetConfig(dim=8, dim_mults=(1, 2), uncond_prob=probability)
    network = build_model(settings, ProcessConfig(timesteps=50), image_size=8, text_dim=5).diffusion.model
    x, time, text_emb = inputs()
    results = []
    for condition in (text_emb, None):
        torch.manual_seed(3)
        results.append(network(x, time, {"text_emb": condition}))
    assert torch.equal(*results) == (probability == 1)


def test_shapes_that_do_not_fit(unet: Unet) -> None:
    x, time, text_emb = inputs()
    for images in (x[..., :6], x[:, :2], x[0]):
        with pytest.raises(ValueError, match="divisible by 4"):
            unet(images, time)
    for condition in (text_emb[:, :4], text_emb[:2]):
        with pytest.raises(ValueError, match="text embeddings of shape"):
            unet(x, time, {"text_emb": condition})
        with pytest.raises(ValueError, match="text embeddings of shape"):
            unet.eval()(x, time, {"text_emb": condition, "cfg_scale": 1.0})
    for dim in (0, 7):
        with pytest.raises(ValueError, match="even number"):
            Unet(dim=dim, condition_dim=4)
    with pytest.raises(ValueError, match="at least one level"):
        Unet(dim=4, condition_dim=4, dim_mults=())
    with pytest.raises(ValueError, match="can be built but not run"):
        Unet(dim=2, condition_dim=5, dim_mults=(1, 2))(x, time)


# --------------------------------------------------------------------------------------------- the process


@pytest.mark.parametrize(
    ("schedule", "timesteps"),
    [
        *(("linear", count) for count in (1, 21, 100, 1000)),
        *((schedule, count) for schedule in ("cosine", "sigmoid") for count in (1, 2, 20, 100, 1000)),
    ],
)
def test_schedules_end_in_noise(schedule: str, timesteps: int) -> None:
    betas = make_betas(schedule, timesteps)
    assert betas.dtype == torch.float64
    assert betas.shape == (timesteps,)
    assert (betas[:-1] > 0).all()
    assert (betas < 1).all()
    process = GaussianDiffusion(None, image_size=4, timesteps=timesteps, beta_schedule=schedule)
    assert all(values.isfinite().all() for values in process.state_dict().values())
    if timesteps >= 100:
        assert (1 - betas).prod() < 5e-4
        assert betas[0] < 0.01


@pytest.mark.parametrize("timesteps", [2, 19, 20])
def test_linear_schedule_with_too_few_steps_is_refused_before_training(timesteps: int) -> None:
    """The course's formula gives its last step a variance of 20 / timesteps, which must stay below one."""
    for refused in (
        lambda: make_betas("linear", timesteps),
        lambda: ProcessConfig(beta_schedule="linear", timesteps=timesteps),
    ):
        with pytest.raises(ConfigError, match=f"needs more than 20 time steps, not {timesteps}"):
            refused()


def test_linear_schedule_at_a_thousand_steps_is_that_of_the_paper() -> None:
    betas = make_betas("linear", 1000)
    assert (float(betas[0]), float(betas[-1])) == pytest.approx((1e-4, 0.02))


class Perfect(torch.nn.Module):
    """Knows the image and the noise, and gives what is asked for."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, time: Tensor, model_kwargs: object) -> Tensor:
        return self.answer


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x_start", "pred_v"])
def test_objectives_agree_about_the_clean_image(objective: str) -> None:
    t = torch.tensor([3, 40, 90])
    image, noise = torch.rand(3, 3, 4, 4) * 2 - 1, torch.randn(3, 3, 4, 4)
    diffusion = GaussianDiffusion(None, image_size=4, timesteps=100, objective=objective)
    answers = {"pred_noise": noise, "pred_x_start": image, "pred_v": diffusion.predict_v(image, t, noise)}
    diffusion.model = Perfect(answers[objective])
    x_t = diffusion.q_sample(image, t, noise)
    torch.testing.assert_close(diffusion.predict_x_start(x_t, t), image, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(diffusion.losses_at(image, t, noise), torch.zeros(3))


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_min_snr_weighs_every_objective_alike(gamma: float | None) -> None:
    """The same error of the clean image costs min(SNR, gamma) times its square, whatever the network predicts."""
    t = torch.tensor([1, 30, 70])
    image, noise, error = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4), 0.1 * torch.randn(3, 3, 4, 4)
    for objective in ("pred_noise", "pred_x_start", "pred_v"):
        diffusion = GaussianDiffusion(None, image_size=4, timesteps=100, objective=objective, min_snr_gamma=gamma)
        x_t = diffusion.q_sample(image, t, noise)
        wrong = image + error
        implied = diffusion.predict_noise_from_start(x_t, t, wrong)
        answers = {"pred_noise": implied, "pred_x_start": wrong, "pred_v": diffusion.predict_v(wrong, t, implied)}
        diffusion.model = Perfect(answers[objective])
        snr = diffusion.alphas_cumprod[t] / (1 - diffusion.alphas_cumprod[t])
        if gamma is None:
            weight = {"pred_noise": snr, "pred_x_start": snr, "pred_v": snr + 1}[objective]
        else:
            weight = snr.clamp(max=gamma)
        expected = weight * error.square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(diffusion.losses_at(image, t, noise), expected, rtol=2e-3, atol=1e-5)


def test_sample_leaves_the_mode_as_it_was_and_draws_without_dropout(unet: Unet) -> None:
    diffusion = GaussianDiffusion(unet, image_size=8, timesteps=4)
    modes = []
    unet.init_conv.register_forward_hook(lambda *_: modes.append(unet.training))
    for training in (True, False):
        diffusion.train(training)
        assert diffusion.sample(2).shape == (2, 3, 8, 8)
        assert diffusion.training == unet.training == training
    assert modes == [False] * 8
    unet.eval()
    diffusion.training = True
    unet.mid_block1.train()
    modes_of_parts = [module.training for module in diffusion.modules()]
    diffusion.sample(2)
    assert [module.training for module in diffusion.modules()] == modes_of_parts
    steps = diffusion.sample(2, return_all_timesteps=True)
    assert steps.shape == (2, 5, 3, 8, 8)
    assert not steps.requires_grad


def test_every_step_is_guided(unet: Unet) -> None:
    diffusion = GaussianDiffusion(unet, image_size=8, timesteps=6)
    sizes = []
    unet.init_conv.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    given = {"text_emb": torch.randn(2, 5), "cfg_scale": 1.0}
    diffusion.sample(2, model_kwargs=given)
    assert sizes == [4] * 6
    assert list(given) == ["text_emb", "cfg_scale"]


def test_wrong_processes() -> None:
    for options, message in (
        ({"objective": "pred_score"}, "unknown objective"),
        ({"beta_schedule": "square"}, "unknown schedule"),
        ({"timesteps": 0}, "timesteps must be at least 1"),
        ({"min_snr_gamma": -1.0}, "min_snr_gamma"),
    ):
        with pytest.raises(ConfigError, match=message):
            GaussianDiffusion(None, image_size=4, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without a network"):
        GaussianDiffusion(None, image_size=4).sample(1)
