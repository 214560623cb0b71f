"""The dropout stream behind the published reference values.

Those values came from an Intel CPU, where torch takes float32 dropout masks from MKL's MCG31m1 generator; other CPUs
draw differently. The fixture puts that stream in place of torch's dropout, so the numbers hold on any machine.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

MULTIPLIER = 1132489760
MODULUS = 2**31 - 1


def mcg31m1_states(seed: int, count: int) -> np.ndarray:
    """The first `count` states of the multiplicative congruential generator."""
    states = np.empty(count, dtype=np.int64)
    state = seed % MODULUS or 1
    for index in range(count):
        states[index] = state
        state = state * MULTIPLIER % MODULUS
    return states


def draw_32_bits() -> int:
    """One whole 32-bit output of the default generator, which advances by exactly that one.

    No torch function returns all 32 bits, so the upper half of a 64-bit draw is read from a copy of the state, and
    the generator is then advanced by a draw that consumes a single output.
    """
    copy = torch.Generator()
    copy.set_state(torch.get_rng_state())
    both = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=copy))
    torch.empty((), dtype=torch.int32).random_()
    return (both >> 32) & 0xFFFFFFFF


def mcg31m1_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    kept = mcg31m1_states(draw_32_bits(), input.numel()) / MODULUS < 1 - p
    return input * torch.from_numpy(kept).view(input.shape) / (1 - p)


@pytest.fixture(autouse=True)
def intel_dropout_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "dropout", mcg31m1_dropout)


def rel_error(x: np.ndarray, y: np.ndarray) -> float:
    """The notebooks' measure: the largest elementwise relative error."""
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))
