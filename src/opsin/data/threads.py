"""Work on many rows by several threads: in order, and with few results in memory at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
