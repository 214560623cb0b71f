"""The processes of a run: Fabric for this one, what all of them have to know or do together, and the features of all,
for losses that compare every sample with every other one."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from torch import Tensor, distributed

from opsin.errors import TrainingError
from opsin.runtime import resolve_device, resolve_precision
from opsin.training.config import TrainingConfig

LOST = ("by peer", "Timed out waiting")


class AutocastPrecision(MixedPrecision):
    """Fabric's mixed precision, except that the batch keeps its types: rounding an image to bfloat16, or worse a time
    or a coordinate, before the task has seen it would change what is learned."""

    def convert_input(self, data: Any) -> Any:
        """The batch as it is."""
        return data


class Processes:
    """This process among those of the run. Every method has to be called by all of them, in the same order."""

    def __init__(self, config: TrainingConfig) -> None:
        """Connects the processes. Raises ConfigError for a device or precision that this machine lacks."""
        self.fabric = fabric = make_fabric(config)
        _launch(fabric)
        self.device = fabric.device
        self.rank = fabric.global_rank
        self.count = fabric.world_size
        self.is_first = fabric.is_global_zero
        # Decisions are shared between the hosts: asking the GPUs would make each step wait for the one before.
        # And the first one may evaluate for longer than the half hour that others would wait for it.
        patience = datetime.timedelta(days=30)
        self._hosts: Any = torch.distributed.new_group(backend="gloo", timeout=patience) if self.count > 1 else None

    def largest(self, values: list[float]) -> list[float]:
        """The largest over all processes of each value. Clocks and signals differ between them."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=self._hosts)
        return [float(value) for value in tensor]

    def agree_on(self, value: float) -> bool:
        """Whether `value` is the same in all processes."""
        largest, negated_smallest = self.largest([value, -value])
        return largest == -negated_smallest

    def total(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over all processes of each scalar; the result stays on the device."""
        if self.count == 1:
            return dict(values)
        tensor = torch.stack(list(values.values()))
        torch.distributed.all_reduce(tensor)
        return dict(zip(values, tensor.unbind(), strict=True))

    def on_first(self, action: Callable[[], None]) -> None:
        """Run `action` in the first process while the others wait. When it fails there, all of them stop."""
        failure: Exception | None = None
        if self.is_first:
            try:
                action()
            except Exception as error:
                failure = error
        failed = self.largest([float(failure is not None)])[0]
        if failure is not None:
            raise failure
        if failed:
            raise TrainingError("the first process of the run stopped with an error; its own message says which")


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective operation failed because another process went away or did not come; gloo says so in its
    message only."""
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in LOST)


def _launch(fabric: Fabric) -> None:
    """Connect the processes, without the greeting that Fabric logs."""
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        fabric.launch()
    finally:
        log.setLevel(level)


def make_fabric(config: TrainingConfig) -> Fabric:
    """Fabric for this process: one device, or the ones that torchrun has dealt out through its environment."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    plugin = Precision()
    if precision != "32":
        plugin = AutocastPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", device.type)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    devices: int | list[int] = local if world_size > 1 or device.index is None else [device.index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric's advice about hardware that the user did not ask for
        return Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=max(world_size // local, 1),
            strategy="ddp" if world_size > 1 else "auto",
            plugins=plugin,
        )


_aside: ContextVar[bool] = ContextVar("aside", default=False)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """In the block this process has no samples of its own: what it gathers, the others do not see. It takes part all
    the same, since they wait for it."""
    token = _aside.set(True)
    try:
        yield
    finally:
        _aside.reset(token)


def gather(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensors (n, ...) of all processes one after the other, (N, ...), and the place of this process's first row.

    `n` may differ between processes. Gradients flow back to all of them: each gets the sum of what the losses of all
    processes say about its rows. So W processes that each take the mean loss of their own rows against all rows do what
    one does with the joint batch. Without other processes the result is `tensor` itself. Every process has to call
    this, in the same order; one that stands `aside` finds its own rows at the end.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return tensor, 0
    if _aside.get():
        everyone = _Gather.apply(tensor[:0], _counts(tensor[:0]))
        return torch.cat([everyone, tensor]), len(everyone)
    counts = _counts(tensor)
    return _Gather.apply(tensor, counts), sum(counts[: distributed.get_rank()])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.split(ctx.counts)[distributed.get_rank()], None


def _counts(tensor: Tensor) -> list[int]:
    """Rows that each process has."""
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, own)
    return [int(count) for count in counts]
