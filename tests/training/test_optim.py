"""The optimiser's groups, the learning-rate schedule, and the moving average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from opsin.errors import ConfigError
from opsin.training.config import TrainingConfig
from opsin.training.optim import ExponentialMovingAverage, build_optimizer, learning_rate_factor

CONFIG = TrainingConfig(max_steps=1, weight_decay=0.1, learning_rate=0.2, beta2=0.95)


class Mixed(nn.Module):
    """Parameters of all kinds, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.conv = nn.Conv2d(2, 3, 2)
        self.norm = nn.LayerNorm(4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position = nn.Parameter(torch.zeros(1, 5, 4))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)


def test_only_matrices_decay() -> None:
    model = Mixed()
    optimizer = build_optimizer(model, CONFIG)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "linear.weight": 0.1,
        "linear.bias": 0.0,
        "conv.weight": 0.1,
        "conv.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "class_token": 0.0,
        "position": 0.0,
        "temperature": 0.0,
    }
    assert {name: decays.get(id(p)) for name, p in model.named_parameters() if name != "frozen"} == expected
    assert id(model.frozen) not in decays
    assert all(group["lr"] == 0.2 and group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)


def test_a_step_is_adamw_by_hand() -> None:
    """First step of AdamW: the moments are the gradient and its square, so the update is lr·sign(g), after decay."""
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizer = build_optimizer(model, CONFIG)
    (model.weight * torch.tensor([3.0, -5.0])).sum().backward()
    optimizer.step()
    expected = before * (1 - 0.2 * 0.1) - 0.2 * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(model.weight.detach(), expected)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(nn.ReLU(), CONFIG)


def test_float16_does_without_the_fused_step() -> None:
    """Fabric refuses to clip the gradients of an optimiser that undoes the loss scale by itself."""
    half = TrainingConfig(max_steps=1, precision="16")
    assert not getattr(build_optimizer(nn.Linear(2, 2), half), "_step_supports_amp_scaling", False)


@pytest.mark.parametrize(
    ("progress", "warmup", "factor"),
    [
        (0.0, 0.1, 0.0),
        (0.05, 0.1, 0.5),
        (0.1, 0.1, 1.0),
        (0.55, 0.1, 0.5),
        (1.0, 0.1, 0.0),
        (0.0, 0.0, 1.0),
        (0.5, 0.0, 0.5),
        (0.25, 0.0, (1 + math.sqrt(0.5)) / 2),
    ],
)
def test_learning_rate(progress: float, warmup: float, factor: float) -> None:
    assert learning_rate_factor(progress, warmup) == pytest.approx(factor, abs=1e-12)


def test_the_schedule_agrees_with_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for step in range(10):
        assert learning_rate_factor(step / 10, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_moving_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ExponentialMovingAverage(model, 0.3)
    start = {name: tensor.tolist() for name, tensor in ema.state_dict().items()}
    bias, mean = list(start["0.bias"]), list(start["1.running_mean"])
    for step in range(6):
        with torch.no_grad():
            model[0].bias += 1
        model(torch.randn(4, 2))
        ema.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        bias = [decay * old + (1 - decay) * new for old, new in zip(bias, model[0].bias.tolist(), strict=True)]
        mean = [decay * old + (1 - decay) * new for old, new in zip(mean, model[1].running_mean.tolist(), strict=True)]
    average = ema.state_dict()
    assert average["0.bias"].tolist() == pytest.approx(bias, rel=1e-5)
    assert average["1.running_mean"].tolist() == pytest.approx(mean, rel=1e-5)
    assert average["1.num_batches_tracked"] == 6
    assert average["0.weight"].tolist() == start["0.weight"]


def test_a_moving_average_is_restored_by_name() -> None:
    ema = ExponentialMovingAverage(nn.Linear(2, 2), 0.9)
    other = ExponentialMovingAverage(nn.Linear(2, 2), 0.9)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(other.average[name], tensor) for name, tensor in ema.average.items())
    with pytest.raises(KeyError, match="weight"):
        other.load_state_dict({"bias": torch.zeros(2)})
