"""The optimizer, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opsin.errors import ConfigError
from opsin.training.config import TrainingConfig


def build_optimizer(
    model: nn.Module, config: TrainingConfig, scale_of: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices and convolutions only.

    `scale_of` gives the factor on the learning rate of a parameter by its name; its group keeps it as `scale`. Raises
    ConfigError when the model has nothing to train.
    """
    parts: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Learned positions and class tokens have several axes too, and no layer calls them its weight.
            is_matrix = name.endswith("weight") and parameter.ndim >= 2
            parts.setdefault((scale_of(name), is_matrix), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": own, "weight_decay": config.weight_decay if is_matrix else 0.0, "scale": scale}
        for (scale, is_matrix), own in sorted(parts.items(), key=lambda part: part[0], reverse=True)
    ]
    if not groups:
        raise ConfigError("the model has no trainable parameter")
    # The fused step would undo float16's loss scaling by itself, after the gradients should have been clipped.
    fused = config.precision != "16"
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=fused)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of the run: a linear rise, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


class ExponentialMovingAverage:
    """Averages parameters as average = d·average + (1-d)·weight, with d rising to `decay` as (1+t)/(10+t).

    The warm-up keeps the random initial weights from weighing on the average of a short run. Buffers such as the
    statistics of a BatchNorm are averaged like weights; whole numbers among them are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after optimiser step number `step`, counted from zero."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = [], []
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.average[name])
                weights.append(tensor.detach())
            else:
                self.average[name].copy_(tensor)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave; KeyError when it belongs to a model with other names."""
        if state.keys() != self.average.keys():
            raise KeyError(f"the averaged weights differ in {sorted(state.keys() ^ self.average.keys())[:3]}")
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
