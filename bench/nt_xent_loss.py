"""NT-Xent of two views of 4096 images, projections of width 128, forward and backward, and the memory that it takes.

opsin is the loss of `opsin train simclr`, in float32 like its peers, in blocks of bounded size:

- lightly: lightly.loss.NTXentLoss, a cross-entropy over the whole matrix of cosines;
- formula: the course's vectorised loss, which takes exponentials of the whole matrix.

Before anything is timed, losses and gradients are compared. Memory is what a first call needs at its peak beyond what
the process holds before it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness.memory import peak_megabytes
from harness.timing import parse_arguments, print_machine, print_table, print_timings, time_in_turn
from lightly.loss import NTXentLoss
from torch import Tensor

from opsin.runtime import resolve_device, resolve_precision
from opsin.simclr.loss import nt_xent_loss, simclr_loss_vectorized

IMAGES, WIDTH, TEMPERATURE = 4096, 128, 0.5
QUICK_IMAGES = 32

Call = Callable[[], list[Tensor]]


def make_call(loss: Callable[[Tensor, Tensor], Tensor], views: list[Tensor]) -> Call:
    """The loss and its gradients at both views. Reading the loss waits for a GPU."""

    def call() -> list[Tensor]:
        value = loss(*views)
        gradients = torch.autograd.grad(value, views)
        value.item()
        return [value.detach(), *gradients]

    return call


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=60)
    device = resolve_device()
    images = QUICK_IMAGES if arguments.quick else IMAGES
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(images, WIDTH, generator=generator).to(device).requires_grad_() for _ in range(2)]
    few = [view.detach()[:8].requires_grad_() for view in views]
    lightly = NTXentLoss(TEMPERATURE)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "opsin": lambda left, right: nt_xent_loss(left, right, TEMPERATURE),
        "lightly": lightly,
        "formula": lambda left, right: simclr_loss_vectorized(left, right, TEMPERATURE, device),
    }
    ways = {name: make_call(loss, views) for name, loss in losses.items()}
    rows = []
    for name, loss in losses.items():
        make_call(loss, few)()  # what is loaded once belongs to no way
        rows.append([name, f"{peak_megabytes(ways[name], device):.0f}"])
    expected = ways["lightly"]()
    for name in ("opsin", "formula"):
        torch.testing.assert_close(ways[name](), expected, rtol=1e-4, atol=1e-7, msg=f"{name} gives something else")
    print_machine(resolve_precision("auto", device))
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print(f"two views of {images} images, forward and backward")
    print_timings(timings, "opsin", per_call=images, unit="images/s")
    print_table(["", "peak MiB"], rows)


if __name__ == "__main__":
    main()
