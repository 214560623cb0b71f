"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
