"""The contrastive loss NT-Xent ("A Simple Framework for Contrastive Learning of Visual Representations", Chen et al.
2020, equation 1 and algorithm 1), as a student would write it and as training takes it.

Two views of each image make 2N vectors: the left ones, then the right ones. Each is asked which of the 2N - 1 others is
the other view of its image. The paper interleaves the views; the order makes no difference to the loss.

Dimensions: n images of this process, N images of all processes, R = 2n vectors that are asked, K = 2N vectors that are
compared with, E width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opsin.errors import ConfigError
from opsin.training.processes import gather as gather_from_processes

MOST_COSINES = 2**22
"""Cosines in memory at a time, 16 MiB in float32, and as many probabilities."""


def sim(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of two vectors (E,), a tensor of no dimension; zero where one of them is a zero vector."""
    return _unit(left) @ _unit(right)


def simclr_loss_naive(out_left: Tensor, out_right: Tensor, tau: float) -> Tensor:
    """The loss of two views (N, E) each, pair by pair: slow, and what the formula says, whose exponentials are kept as
    logarithms, so that no temperature overflows."""
    out = torch.cat([out_left, out_right])
    count = len(out_left)
    total = out.new_zeros(())
    for k in range(count):
        for row, other in ((k, k + count), (k + count, k)):
            others = torch.stack([sim(out[row], out[i]) / tau for i in range(2 * count) if i != row])
            total = total + torch.logsumexp(others, dim=0) - sim(out[row], out[other]) / tau
    return total / (2 * count)


def sim_positive_pairs(out_left: Tensor, out_right: Tensor) -> Tensor:
    """Cosines of row i of one with row i of the other, (N, 1)."""
    return (_unit(out_left) * _unit(out_right)).sum(dim=1, keepdim=True)


def compute_sim_matrix(out: Tensor) -> Tensor:
    """Cosines of all rows of (2N, E) with each other, (2N, 2N)."""
    unit = _unit(out)
    return unit @ unit.T


def simclr_loss_vectorized(out_left: Tensor, out_right: Tensor, tau: float, device: torch.device | str) -> Tensor:
    """What `simclr_loss_naive` gives, without loops, on a device."""
    out_left, out_right = out_left.to(device), out_right.to(device)
    cosines = compute_sim_matrix(torch.cat([out_left, out_right]))
    others = torch.logsumexp((cosines / tau).fill_diagonal_(-torch.inf), dim=1)
    positive = (sim_positive_pairs(out_left, out_right)[:, 0] / tau).repeat(2)
    return (others - positive).mean()


def nt_xent_loss(left: Tensor, right: Tensor, temperature: float, *, gather: bool = True) -> Tensor:
    """The mean loss of this process's images, whose alternatives are the images of all processes.

    A cross-entropy over cosines, in float32 at any precision (float64 where the vectors are). It never holds more than
    `MOST_COSINES` cosines at once (one row at the least), however large the batch. The cosine of a zero vector with any
    other is zero, and it gets no gradient along itself. A single pair, which has nothing to be told from, has a loss of
    zero.

    Args:
        left: (n, E) projections of the first views, of any length.
        right: (n, E) projections of the second views; row i belongs to row i of the first ones.
        temperature: what cosines are divided by, above zero.
        gather: with False, only the images of this process are compared; all processes or none have to gather.

    Raises ConfigError for a temperature that is not above zero or not finite, ValueError without any image.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"the temperature of the loss must be above zero, not {temperature}")
    if len(left) == 0:
        raise ValueError("the contrastive loss needs at least one image, and this batch has none")
    with torch.autocast(left.device.type, enabled=False):
        precise = torch.float64 if left.dtype == torch.float64 else torch.float32
        own = torch.stack([_unit(left.to(precise)), _unit(right.to(precise))])  # (2, n, E)
        every, start = own, 0
        if gather:
            by_image, start = gather_from_processes(own.transpose(0, 1))
            every = by_image.transpose(0, 1)
        total = every.shape[1]
        places = torch.arange(start, start + own.shape[1], device=own.device)
        itself, other = torch.cat([places, places + total]), torch.cat([places + total, places])
        loss: Tensor = _NTXent.apply(own.flatten(0, 1), every.flatten(0, 1), itself, other, temperature)
        return loss


class _NTXent(torch.autograd.Function):
    """Mean loss of vectors (R, E) among vectors (K, E), all of length one. Places int64 (R,) among the K say which is
    the vector itself, which does not count, and which is the one to be found."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, keys: Tensor, itself: Tensor, other: Tensor, temperature: float) -> Tensor:
        losses = torch.empty_like(rows[:, 0])
        grad_rows, grad_keys = torch.empty_like(rows), torch.zeros_like(keys)
        for part in _parts(rows, keys):
            logits = (rows[part] / temperature) @ keys.T
            logits.scatter_(1, itself[part, None], -torch.inf)
            log_probabilities = logits.log_softmax(dim=1)
            right = other[part, None]
            losses[part] = -log_probabilities.gather(1, right)[:, 0]
            if any(ctx.needs_input_grad):
                # A block is there only now, so the gradients are taken now: of a cross-entropy they are, at the
                # logits, the probabilities less one at the right answer.
                at_logits = log_probabilities.exp_().scatter_add_(1, right, -torch.ones_like(logits[:, :1]))
                torch.mm(at_logits, keys, out=grad_rows[part])
                grad_keys.addmm_(at_logits.T, rows[part])
        scale = 1 / (len(rows) * temperature)
        ctx.save_for_backward(grad_rows * scale, grad_keys * scale)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_rows, grad_keys = ctx.saved_tensors
        return grad * grad_rows, grad * grad_keys, None, None, None


def _parts(rows: Tensor, keys: Tensor) -> Iterator[slice]:
    size = max(1, MOST_COSINES // len(keys))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (…, E) of length one; those of length zero stay as they are."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(norms > 0, norms, torch.ones_like(norms))
