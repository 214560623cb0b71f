"""Timing several ways of doing the same work against each other, fairly, in one process.

All ways are warmed up, then run in turn, one call each a round, so that a machine that slows down for a while slows
all of them; the order rotates, so that none always follows the same other. Every reported number is a median.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from opsin.runtime import describe_environment

WARMUP_CALLS = 2
FEWEST_ROUNDS = 5

Timings = dict[str, list[float]]


def parse_arguments(description: str | None, *, seconds: float) -> argparse.Namespace:
    """`seconds` to measure for, in all, and `quick`, which asks for one round only: does the script still run?"""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument("--seconds", type=float, default=seconds, help="time to measure for (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round; the numbers mean nothing")
    return parser.parse_args()


def time_in_turn(ways: Mapping[str, Callable[[], object]], *, seconds: float, quick: bool) -> Timings:
    """Seconds of each call of each way, by round: at least five rounds, and more until `seconds` are spent."""
    names = list(ways)
    for name in names:
        for _ in range(1 if quick else WARMUP_CALLS):
            ways[name]()
    timings: Timings = {name: [] for name in names}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 1 if quick else rounds < FEWEST_ROUNDS or time.perf_counter() < end:
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            ways[name]()
            timings[name].append(time.perf_counter() - started)
        rounds += 1
    return timings


def ratio(timings: Timings, slower: str, faster: str) -> float:
    """How many times as long `slower` takes: the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(timings[slower], timings[faster], strict=True))


def print_machine(precision: str) -> None:
    """One line: processor (and GPU), threads, torch, and the precision that opsin chose."""
    environment = describe_environment()
    hardware = " + ".join([str(environment["cpu"]), *environment["gpus"]])
    threads = environment["cpu_threads"]
    print(f"{hardware}, {threads} threads, torch {torch.__version__}, precision auto = {precision}")


def print_timings(timings: Timings, reference: str, *, per_call: float = 1, unit: str = "calls/s") -> None:
    """Each way with its median time, its throughput in `unit` (`per_call` of them a call), and opsin's advantage."""
    rows = []
    for name, seconds in timings.items():
        median = statistics.median(seconds)
        rows.append([name, f"{1e3 * median:.1f}", f"{per_call / median:.0f}", f"{ratio(timings, name, reference):.2f}"])
    print_table(["", "ms", unit, "time ratio"], rows)
    print(f"time ratio: to {reference!r}; medians of {len(timings[reference])} rounds\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())
