"""Features of all processes of a run, for losses that compare every sample with every other one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed

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
