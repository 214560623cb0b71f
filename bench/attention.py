"""Attention computed plainly (scores, softmax, weighted values) against torch's fused kernel, on the CPU.

This decides which of its two paths `opsin.nn.attention` takes without dropout. Both get the projected queries, keys and
values of a layer, laid out as the layer lays them out, and both return heads ready for the output projection. Each row
has the same number of tokens in all, cut into sequences of another length. bf16 runs under autocast, as opsin's
training and inference do: there the softmax of the plain path is taken in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness.timing import parse_arguments, print_machine, print_table, ratio, time_in_turn
from torch import Tensor

from opsin.nn.attention import LONGEST_PLAIN_BF16, attention_probabilities
from opsin.runtime import autocast, resolve_precision

TOKENS = 4096
HEADS = ((8, 16), (4, 48))  # number and width: of the course's network, and of opsin's recipes
LENGTHS = (16, 64, 128, 256, 512, 1024)
CPU = torch.device("cpu")


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (attention_probabilities(q, k, None) @ v).transpose(1, 2).flatten(2)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def make_inputs(shape: tuple[int, int, int], dtype: torch.dtype, *, training: bool) -> list[Tensor]:
    """Queries, keys and values (N, H, T, d) for (T, H, d), cut out of one product as the layer does it."""
    length, num_heads, head_width = shape
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(TOKENS // length, length, 3 * num_heads * head_width, generator=generator)
    parts = product.to(dtype).requires_grad_(training).chunk(3, dim=-1)
    return [part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in parts]


def make_call(
    attend: Callable[..., Tensor], inputs: list[Tensor], precision: str, *, training: bool
) -> Callable[[], None]:
    def call() -> None:
        with autocast(CPU, precision), torch.set_grad_enabled(training):
            heads = attend(*inputs)
        if training:
            torch.autograd.grad(heads.sum(), inputs)

    return call


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=50)
    columns = {
        f"{name} {mode}": (precision, training)
        for name, precision in (("float32", "32"), ("bf16", "bf16"))
        for mode, training in (("forward", False), ("training", True))
    }
    lengths = LENGTHS[:2] if arguments.quick else LENGTHS
    share = arguments.seconds / (len(lengths) * len(HEADS) * len(columns))
    rows = []
    for (num_heads, head_width), length in itertools.product(HEADS, lengths):
        cells = [f"{num_heads} heads of {head_width}, {length} tokens"]
        for precision, training in columns.values():
            dtype = torch.float32 if precision == "32" else torch.bfloat16
            inputs = make_inputs((length, num_heads, head_width), dtype, training=training)
            ways = {way.__name__: make_call(way, inputs, precision, training=training) for way in (plain, fused)}
            timings = time_in_turn(ways, seconds=share, quick=arguments.quick)
            cells.append(f"{ratio(timings, 'fused', 'plain'):.2f}")
        rows.append([*cells, "plain" if length <= LONGEST_PLAIN_BF16 else "fused"])
    print_machine(resolve_precision("auto", CPU))
    print_table(["", *columns, "opsin in bf16"], rows)
    print("time ratio: of the fused kernel to the plain path; above 1 the plain path is the faster one\n")


if __name__ == "__main__":
    main()
