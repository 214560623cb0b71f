"""Reading and encoding many images: on all cores, in order, and with the same results whatever the number of cores.

A network's result for an image may change in the last bit with the other images of its batch, and with the number of
threads that share a matrix product. So batches are cut by position alone, and each goes through the network on a
single thread, while as many batches as there are cores are under way at once. That is no slower than one batch on all
cores, and images are decoded meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from opsin.encoders.base import BATCH_SIZE
from opsin.errors import DataError
from opsin.images.opening import ImageLike, open_image
from opsin.names import printable
from opsin.runtime import usable_cores
from opsin.search.collection import Collection, Entry, UnreadableFile

Encode = Callable[[Iterable[ImageLike]], torch.Tensor]
"""Vectors of length one, float32 (N, D), of at least one image."""
InputSize = Callable[[], int | None]
"""The `size` of `open_image` for images to encode."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of one entry: it has a vector, or its content was known already, or there is a problem."""

    entry: Entry
    digest: str = ""
    vector: np.ndarray | None = None
    """float16 (D,), of length one."""
    problem: str = ""
    transient: bool = False
    """The problem may be gone another time although the file is the same."""


class IsKnown(Protocol):
    """Tells whether content with this digest needs no encoding; called by several threads."""

    def __call__(self, digest: str, /) -> bool: ...


def encode_entries(
    collection: Collection,
    entries: Sequence[Entry],
    encode: Encode,
    is_known: IsKnown = lambda digest: False,
    *,
    size: InputSize = lambda: None,
    workers: int | None = None,
) -> Iterator[list[Encoded]]:
    """What becomes of the entries, in their order, one list for every `BATCH_SIZE` of them.

    Broken images have a problem and no vector, and leave the batches of others as they are. `workers` batches are
    encoded at once, by default as many as there are usable cores. `size` is asked when there is an image to encode.
    """
    workers = workers or usable_cores()

    def work(start: int) -> list[Encoded]:
        return _encode_batch(collection, entries[start : start + BATCH_SIZE], encode, is_known, size)

    with _single_threaded_pool(workers) as pool:
        under_way: deque[Future[list[Encoded]]] = deque()
        for start in range(0, len(entries), BATCH_SIZE):
            under_way.append(pool.submit(work, start))
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


@contextmanager
def _single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool in whose threads torch uses no further ones; the caller's number of threads is as before at the end."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _encode_batch(
    collection: Collection, entries: Sequence[Entry], encode: Encode, is_known: IsKnown, size: InputSize
) -> list[Encoded]:
    results: list[Encoded] = []
    places: list[int] = []

    def images() -> Iterator[Image.Image]:
        """The images to encode, opened one by one; `results` has all entries after the last."""
        for entry in entries:
            try:
                digest, content = collection.content(entry)
            except DataError as error:
                results.append(Encoded(entry, problem=str(error), transient=isinstance(error, UnreadableFile)))
                continue
            results.append(Encoded(entry, digest))
            if is_known(digest):
                continue
            try:
                image = open_image(content, name=printable(entry.id), size=size())
            except DataError as error:
                results[-1] = Encoded(entry, digest, problem=str(error))
                continue
            places.append(len(results) - 1)
            yield image

    opened = images()
    if (first := next(opened, None)) is None:
        return results
    vectors = encode(chain([first], opened)).to(torch.float16).numpy()
    for place, vector in zip(places, vectors, strict=True):
        entry, digest = results[place].entry, results[place].digest
        if np.isfinite(vector).all():
            results[place] = Encoded(entry, digest, vector)
        else:
            results[place] = Encoded(entry, digest, problem=f"{printable(entry.id)} got no finite vector")
    return results
