"""Decoding images into arrays of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
from PIL import Image

from opsin.data.images import ImageLike, Skipped, open_image
from opsin.data.sources import ImageSource
from opsin.errors import DataError

DECODING_THREADS = 8  # Pillow releases the interpreter lock while it decodes and resizes
ROWS_AT_A_TIME = 32

ResultT = TypeVar("ResultT")


def fit_image(image: ImageLike, size: int) -> np.ndarray:
    """uint8 (3, size, size): the shorter side resized to `size` (bicubic, antialiased), the centre cropped."""
    opened = open_image(image)
    if opened.size != (size, size):
        # Cropping first gives the same picture and no huge intermediate image of a very long and thin one.
        side = min(opened.size)
        left, top = (opened.width - side) / 2, (opened.height - side) / 2
        opened = opened.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(opened).transpose(2, 0, 1))


def map_rows(function: Callable[[int], ResultT], count: int) -> Iterator[ResultT]:
    """`function` of the rows 0 to `count` - 1, in this order, computed by several threads.

    A thread takes many rows at a time: a task of the pool for every row would need gigabytes for a million of them.
    """

    def of_block(start: int) -> list[ResultT]:
        return [function(row) for row in range(start, min(start + ROWS_AT_A_TIME, count))]

    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        for results in pool.map(of_block, range(0, count, ROWS_AT_A_TIME)):
            yield from results


def load_pixels(source: ImageSource, size: int) -> tuple[ImageSource, np.ndarray]:
    """All images of a source as uint8 (N, 3, size, size), with the source reduced to the rows that could be read.

    Rows of broken images are left out of both, so that they stay aligned, and are listed in the `skipped` of the
    returned source. Raises DataError when no image at all can be read.
    """
    pixels = np.empty((len(source), 3, size, size), dtype=np.uint8)

    def fill(index: int) -> str | None:
        try:
            pixels[index] = fit_image(source.load(index), size)
            return None
        except DataError as error:
            return str(error)

    problems = list(map_rows(fill, len(source)))
    good = np.array([problem is None for problem in problems], dtype=bool)
    if good.all():
        return source, pixels
    skipped = [Skipped(source.ids[index], problem) for index, problem in enumerate(problems) if problem is not None]
    if not good.any():
        raise DataError(
            f"none of the {len(source)} images of {source.name!r} can be read; the first: {skipped[0].reason}"
        )
    rows = np.flatnonzero(good)
    for position, row in enumerate(rows):  # in place: a copy would need the memory twice
        pixels[position] = pixels[row]
    return replace(source.select(rows), skipped=[*source.skipped, *skipped]), pixels[: len(rows)]
