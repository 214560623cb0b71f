"""Votes of the 200 nearest of 50,000 features of width 2048 for 10,000 others, and the memory that they take.

opsin is what `opsin evaluate --protocol knn` does with features that are in the cache, in float32 like its peers:

- formula: the course's, on the whole matrix of cosines at once;
- batches: the course's loop, which applies the formula to 64 images at a time.

Before anything is timed, the predicted classes are compared. Memory is what a call needs at its peak beyond what the
process holds before it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness.memory import peak_megabytes
from harness.timing import parse_arguments, print_machine, print_table, print_timings, time_in_turn
from torch import Tensor

from opsin.probing.knn import knn_predict
from opsin.runtime import resolve_device, resolve_precision

BANK, IMAGES, WIDTH, CLASSES, K, TEMPERATURE = 50_000, 10_000, 2048, 10, 200, 0.5
QUICK_BANK, QUICK_IMAGES, QUICK_WIDTH = 400, 80, 16
COURSE_BATCH = 64


def formula(features: Tensor, transposed: Tensor, labels: Tensor) -> Tensor:
    """Classes (N, K) from the best to the worst; `transposed` is the bank (D, M), which the course turns once."""
    similarities, neighbours = torch.mm(features, transposed).topk(k=K, dim=-1)
    voters = torch.gather(labels.expand(len(features), -1), dim=-1, index=neighbours)
    one_hot = torch.zeros(len(features) * K, CLASSES, device=features.device)
    one_hot = one_hot.scatter(dim=-1, index=voters.view(-1, 1), value=1.0)
    weights = (similarities / TEMPERATURE).exp()
    scores = torch.sum(one_hot.view(len(features), -1, CLASSES) * weights.unsqueeze(dim=-1), dim=1)
    return scores.argsort(dim=-1, descending=True)


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=60)
    device = resolve_device()
    size = (QUICK_BANK, QUICK_IMAGES, QUICK_WIDTH) if arguments.quick else (BANK, IMAGES, WIDTH)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (size[0],), generator=generator)
    centres = torch.randn(CLASSES, size[2], generator=generator)
    bank = F.normalize(centres[labels] + 3 * torch.randn(size[0], size[2], generator=generator), dim=1)
    features = F.normalize(torch.randn(size[1], size[2], generator=generator) + bank[: size[1]], dim=1)
    labels, bank, features = labels.to(device), bank.to(device), features.to(device)
    transposed = bank.t().contiguous()

    def in_batches() -> Tensor:
        return torch.cat([formula(batch, transposed, labels)[:, 0] for batch in features.split(COURSE_BATCH)])

    ways: dict[str, Callable[[], Tensor]] = {
        "opsin": lambda: knn_predict(features, bank, labels, CLASSES, k=K, temperature=TEMPERATURE).argmax(dim=1).cpu(),
        "formula": lambda: formula(features, transposed, labels)[:, 0].cpu(),
        "batches": lambda: in_batches().cpu(),
    }
    found = {}
    rows = []
    for name, way in ways.items():
        rows.append([name, f"{peak_megabytes(lambda way=way, name=name: found.update({name: way()}), device):.0f}"])
    for name, predicted in found.items():
        # Votes that are equal up to rounding may go either way.
        assert float((predicted == found["opsin"]).float().mean()) > 0.999, f"{name} predicts something else"
    print_machine(resolve_precision("auto", device))
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print(f"{size[1]:,} images, a bank of {size[0]:,}, width {size[2]}")
    print_timings(timings, "opsin", per_call=size[1], unit="images/s")
    print_table(["", "peak MiB"], rows)


if __name__ == "__main__":
    main()
