"""The memory that a call needs at its peak, beyond what the process holds before."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil
import torch

INTERVAL = 0.001
"""Seconds between two looks at the process."""


def peak_megabytes(call: Callable[[], object], device: torch.device) -> float:
    """MiB: on a GPU what torch allocates, elsewhere by how much the process grows, looked at a thousand times a
    second."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    sizes = [before]

    def watch() -> None:
        while not done.wait(INTERVAL):
            sizes.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return (max(sizes) - before) / 2**20
