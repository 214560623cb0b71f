"""Parameters and arithmetic of any model, in total and for each of its top-level parts.

Operations are counted by `torch.utils.flop_counter.FlopCounterMode` during one real forward pass. It counts
matrix products, convolutions and attention, where one multiply-accumulate (MAC) is two floating-point
operations (FLOPs). Element-wise work (activations, norms, softmax, residual additions) is not counted;
published figures leave it out as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Size and work of one module for one example input.

    `parameters` counts every element once, also where two layers share a tensor. `macs` and `flops` are for
    the whole example input: use a batch of one for figures per image. `parts` holds the direct children in
    the order in which they are declared; what the model does outside of them belongs to the total only.
    """

    name: str
    parameters: int
    trainable_parameters: int
    macs: int
    flops: int
    parts: tuple[Profile, ...] = ()


def profile_model(model: nn.Module, *example_inputs: Any) -> Profile:
    """Run `model(*example_inputs)` once, in eval mode and without gradients, and count.

    The inputs have to be on the device of the model. The model keeps its mode. Raises whatever the model
    raises for these inputs.
    """
    with _evaluation_mode(model), FlopCounterMode(display=False) as counter:
        model(*example_inputs)
    counts = {name: sum(per_operator.values()) for name, per_operator in counter.get_flop_counts().items()}
    root = type(model).__name__
    parts = tuple(_profile(child, name, counts.get(f"{root}.{name}", 0)) for name, child in model.named_children())
    return _profile(model, root, counter.get_total_flops(), parts)


def _profile(module: nn.Module, name: str, flops: int, parts: tuple[Profile, ...] = ()) -> Profile:
    parameters = list(module.parameters())
    return Profile(
        name=name,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        macs=flops // 2,
        flops=flops,
        parts=parts,
    )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and plain kernels: the counter does not see into some fused ones."""
    modes = [(module, module.training) for module in model.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model.eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, training in modes:
            module.training = training
