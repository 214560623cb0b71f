"""Parameters and arithmetic of any model, in total and for each of its top-level parts.

Operations are counted by `torch.utils.flop_counter.FlopCounterMode` during one real forward pass. It counts
matrix products, convolutions and attention, where one multiply-accumulate (MAC) is two floating-point
operations (FLOPs). Element-wise work (activations, norms, softmax, residual additions) is not among them;
published figures mostly leave it out as well. That of batch norms and pooling, which some profilers add to
the MACs, is given apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opsin.images.opening import Skipped
from opsin.pretrained import Example, PretrainedModel
from opsin.results import Table
from opsin.runtime import evaluating

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Size and work of one module for one example input.

    `parameters` counts every element once, also where two layers share a tensor. `macs` and `flops` are for
    the whole example input: use a batch of one for figures per image. `element_wise` are operations that the
    profiler thop counts as MACs besides: four for each value of a batch norm, and one for each value that a
    pooling to a fixed size reads or gives. `parts` holds the direct children in the order in which they are
    declared; what the model does outside of them belongs to the total only.
    """

    name: str
    parameters: int
    trainable_parameters: int
    macs: int
    flops: int
    element_wise: int
    parts: tuple[Profile, ...] = ()


@dataclass(frozen=True)
class ModelProfile:
    """The profile of a model for one of the inputs that it takes; the model is called `model`."""

    model: str
    example: Example
    profile: Profile
    skipped: tuple[Skipped, ...] = ()

    @property
    def summary(self) -> str:
        """The totals in a line."""
        profile = self.profile
        counts = [
            f"{profile.parameters / 1e6:.2f} M parameters",
            f"{profile.macs / 1e9:.3f} GMACs ({profile.flops / 1e9:.3f} GFLOPs) per image",
        ]
        if profile.element_wise:
            both = (profile.macs + profile.element_wise) / 1e9
            counts.append(f"{both:.2f} GMACs with batch norms and pooling, as the profiler thop counts them")
        return ", ".join(counts)

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {"model": self.model, **self.example.size, **asdict(self.profile)}

    def tables(self) -> list[Table]:
        """A row for each part, and one for all of it."""
        rows = [(part.name, part.parameters, part.macs, part.flops) for part in (*self.profile.parts, self.profile)]
        header = ("part", "parameters", "MACs per image", "FLOPs per image")
        return [Table(header, rows, f"{self.model}, {self.example.words}")]


def profile_pretrained(model: PretrainedModel, name: str | None = None) -> ModelProfile:
    """Profile a model for the inputs that it says are usual; `name` is what the result calls it."""
    example = model.example_inputs()
    return ModelProfile(name or model.name, example, profile_model(example.network, *example.inputs))


def profile_model(model: nn.Module, *example_inputs: Any) -> Profile:
    """Run `model(*example_inputs)` once, in eval mode and without gradients, and count.

    The inputs have to be on the device of the model. The model keeps its mode. Raises whatever the model
    raises for these inputs.
    """
    with _evaluation_mode(model), _counted_element_wise(model) as others, FlopCounterMode(display=False) as counter:
        model(*example_inputs)
    counts = {name: sum(per_operator.values()) for name, per_operator in counter.get_flop_counts().items()}
    root = type(model).__name__
    parts = tuple(
        _profile(child, name, counts.get(f"{root}.{name}", 0), others[name]) for name, child in model.named_children()
    )
    return _profile(model, root, counter.get_total_flops(), others.total(), parts)


def _profile(module: nn.Module, name: str, flops: int, element_wise: int, parts: tuple[Profile, ...] = ()) -> Profile:
    parameters = list(module.parameters())
    return Profile(
        name=name,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        macs=flops // 2,
        flops=flops,
        element_wise=element_wise,
        parts=parts,
    )


@contextmanager
def _counted_element_wise(model: nn.Module) -> Iterator[Counter[str]]:
    """The `element_wise` operations of each direct child, while the model runs."""
    counts: Counter[str] = Counter()

    def counting(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        is_norm = isinstance(module, BATCH_NORMS)
        counts[name.split(".")[0]] += 4 * output.numel() if is_norm else inputs[0].numel() + output.numel()

    hooks = [
        module.register_forward_hook(partial(counting, name))
        for name, module in model.named_modules()
        if isinstance(module, (*BATCH_NORMS, nn.AdaptiveAvgPool2d))
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and plain kernels: the counter does not see into some fused ones."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
