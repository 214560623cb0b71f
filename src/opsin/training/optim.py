"""The optimiser and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from opsin.errors import ConfigError
from opsin.training.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices and convolutions only.

    Raises ConfigError when the model has nothing to train.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Learned positions and class tokens have several axes too, and no layer calls them its weight.
            is_matrix = name.endswith("weight") and parameter.ndim >= 2
            (matrices if is_matrix else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
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
