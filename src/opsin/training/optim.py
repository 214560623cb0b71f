"""The optimiser and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from opsin.training.config import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices and convolutions only."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.squeeze().ndim >= 2]
    vectors = [parameter for parameter in trainable if parameter.squeeze().ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of the run: a linear rise, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))
