"""Work on many rows by several threads: in order, and with few results and little memory in use at a time."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

DECODING_THREADS = 8  # Pillow releases the interpreter lock while it decodes and resizes
ROWS_AT_A_TIME = 4

ResultT = TypeVar("ResultT")


def map_rows(function: Callable[[int], ResultT], count: int) -> Iterator[ResultT]:
    """`function` of the rows 0 to `count` - 1, in this order, computed by several threads.

    The threads are ahead of the results that are asked for by `DECODING_THREADS * ROWS_AT_A_TIME` rows at most.
    """

    def of_block(start: int) -> list[ResultT]:
        return [function(row) for row in range(start, min(start + ROWS_AT_A_TIME, count))]

    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        under_way: deque[Future[list[ResultT]]] = deque()
        for start in range(0, count, ROWS_AT_A_TIME):
            under_way.append(pool.submit(of_block, start))
            if len(under_way) == DECODING_THREADS:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


class MemoryBudget:
    """Bytes that several threads share. Who needs more than is left waits; who needs more than there is goes alone."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._restart()
        if hasattr(os, "register_at_fork"):  # threads that hold a share are not in the new process
            os.register_at_fork(after_in_child=self._restart)

    def _restart(self) -> None:
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Hold `count` bytes for the time of a block. A thread that holds a share must not ask for another one."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + count <= self.total)
            self._used += count
        try:
            yield
        finally:
            with self._changed:
                self._used -= count
                self._changed.notify_all()
