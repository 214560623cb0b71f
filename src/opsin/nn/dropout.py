"""Dropout ("Dropout: A Simple Way to Prevent Neural Networks from Overfitting", Srivastava et al. 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """torch's Dropout, but faster for bfloat16 on a CPU.

    There torch draws a number for each element, one after the other, which takes a quarter of a training step of a
    small Vision Transformer (`bench/vit_training.py`). Here four elements share one draw of 64 bits, so `p` is rounded
    to a multiple of 1/65536. Everywhere else this is torch's own layer, with its stream of random numbers.
    """

    def __init__(self, p: float = 0.5) -> None:
        """`p` is the probability of zeroing an element."""
        if not 0 <= p <= 1:  # torch's own check admits NaN
            raise ValueError(f"the probability of dropout must be in 0 to 1, not {p}")
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        """Zero each element with probability `p` and scale the others by 1/(1-p), in training mode only."""
        dropped_levels = round(self.p * LEVELS)
        fast = input.dtype == torch.bfloat16 and input.device.type == "cpu" and 0 < dropped_levels < LEVELS
        if not (self.training and fast):
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = draws.view(torch.int16)[: input.numel()].view(input.shape)  # uniform from -32768 to 32767
        kept = levels >= dropped_levels - LEVELS // 2
        return input * kept.to(input.dtype).mul_(LEVELS / (LEVELS - dropped_levels))
