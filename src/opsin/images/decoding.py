"""Opening image files within limits, also by several threads: what would cost too much memory or time is refused before
it is decoded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO, TypeVar

from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from opsin.errors import DataError
from opsin.images.grays import raw_mode, use_few_bits
from opsin.images.rendering import reduction

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


MAX_PIXELS = 178_956_970
"""Images with more pixels are refused before they are decoded: a small file can ask for all the memory there is.

This is the size above which Pillow itself refuses them; it warns from half of it on."""
MAX_BYTES = 2**30
"""Images that take more memory while they are decoded and converted are refused."""
MAX_SCANS = 100
"""JPEG files with more scans are refused: each goes over the whole image. Programs write about ten."""
MEMORY = MemoryBudget(2**28)
"""What the images take that the threads of this process decode at a time."""

LARGE_BYTES = 2**25
"""After images that take more, what was freed goes back to the operating system at once."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Formats of files that are read, as Pillow calls them, besides HEIF. It knows more, and runs another program for one
(EPS)."""
HEIF_BRANDS = re.compile(rb"heic|heix|heim|heis|hevc|hevx")
"""Of files with pictures by HEVC: the first box names one of them, also where its main brand is a more general one."""
WORKING_BYTES = {"WEBP": 12, "AVIF": 10, "HEIF": 10, "JPEG2000": 16}
"""Bytes a pixel that the decoders of these formats need besides Pillow's image."""
BYTES_PER_PIXEL = 4
BYTES_OF_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes a pixel of Pillow's images, where it is not `BYTES_PER_PIXEL`."""
ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH, BITS_PER_SAMPLE = 278, 322, 323, 258  # tags of TIFF

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker between the segments of a JPEG, and not one inside the data of a scan."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset([0xC2, 0xC6, 0xCA, 0xCE])


@contextmanager
def decoding(file: BinaryIO, name: str, size: int | None, *, whole: bool) -> Iterator[Image.Image]:
    """A block in which the image of a file may be decoded, and turned into RGB, as a `whole` or in bands.

    The decoder of JPEG reduces it as far as `reduction` allows for `size`. Other threads wait before the block while
    the images in it take more than `MEMORY`. Raises DataError for an image beyond the limits.
    """
    image = _opened(file)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name} was refused: it has {image.width} x {image.height} pixels, and the limit is {MAX_PIXELS:,}; "
            "make it smaller"
        )
    _silence_libtiff()
    working_bytes = _working_bytes(image)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        _refuse_many_scans(file, name)
    deep_mode = raw_mode(image)
    full_size = image.size
    scale = _reduce_in_decoder(image, size)
    needed = working_bytes + opening_bytes(image, size, whole=whole)
    if deep_mode is not None:
        needed += 3 * BYTES_PER_PIXEL * image.width * image.height
    if needed > MAX_BYTES:
        raise DataError(
            f"{name} was refused: to open its {full_size[0]} x {full_size[1]} pixels takes {needed / 2**30:.1f} GiB of "
            f"memory, and the limit is {MAX_BYTES // 2**30}; make it smaller"
        )
    with MEMORY.reserve(needed):
        try:
            if deep_mode is not None:
                use_few_bits(image, file, deep_mode)
            yield _exactly_scaled(image, full_size, scale)
        finally:
            image.close()  # frees the pixels, before another thread gets their room
            if needed > LARGE_BYTES:
                _return_freed_memory()


def _reduce_in_decoder(image: Image.Image, size: int | None) -> int:
    """Have JPEG's decoder leave out what `reduction` allows, in powers of two; returns by how much it reduces."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    factor = reduction(image.width, image.height, size)
    scale = next(scale for scale in (8, 4, 2, 1) if scale <= factor)
    image.draft(None, (image.width // scale, image.height // scale))
    return scale


def _exactly_scaled(image: Image.Image, full_size: tuple[int, int], scale: int) -> Image.Image:
    """The image that a decoder has reduced, without the part of its last row and column that lies outside."""
    if full_size[0] % scale == 0 == full_size[1] % scale:
        return image
    width, height = full_size[0] / scale, full_size[1] / scale
    return image.resize((round(width), round(height)), Image.Resampling.BICUBIC, (0, 0, width, height))


def opening_bytes(image: Image.Image, size: int | None, *, whole: bool) -> int:
    """What an image takes once it is decoded, together with what is made of it."""
    pixels = image.width * image.height
    result = 4 * pixels // reduction(image.width, image.height, size) ** 2 if whole else 0
    return pixels * BYTES_OF_MODE.get(image.mode, BYTES_PER_PIXEL) + result


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    """The image of a file, not decoded yet. HEIF's decoder is used as it is, not made known to all of Pillow."""
    head = file.read(64)
    file.seek(0)
    if head[4:8] == b"ftyp" and HEIF_BRANDS.search(head[8 : int.from_bytes(head[:4], "big")]):
        from pi_heif import HeifImageFile

        image: ImageFile.ImageFile = HeifImageFile(file)
        return image
    return Image.open(file, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _working_bytes(image: Image.Image) -> int:
    """What the decoder needs besides Pillow's image."""
    pixels, channels = image.width * image.height, len(image.getbands())
    if isinstance(image, JpegImagePlugin.JpegImageFile):  # all coefficients, where they come in several scans
        return 2 * channels * pixels if "progressive" in image.info else 0
    if isinstance(image, TiffImagePlugin.TiffImageFile) and any(tile[0] == "libtiff" for tile in image.tile):
        tags = image.tag_v2
        rows = tags.get(TILE_LENGTH, min(tags.get(ROWS_PER_STRIP, image.height), image.height))
        return rows * tags.get(TILE_WIDTH, image.width) * sum(tags.get(BITS_PER_SAMPLE, (1,))) // 8
    return WORKING_BYTES.get(image.format or "", 0) * pixels


def _refuse_many_scans(file: BinaryIO, name: str) -> None:
    position = file.tell()
    scans = _count_scans(file)
    file.seek(position)
    if scans > MAX_SCANS:
        raise DataError(
            f"{name} was refused: it is a JPEG with more than {MAX_SCANS} scans, which take long to decode; save it "
            "again as an ordinary JPEG"
        )


def _count_scans(file: BinaryIO) -> int:
    """How many scans the first image of a JPEG file has, counted up to one more than `MAX_SCANS`."""
    file.seek(2)
    components, is_progressive = 0, True
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        body = file.read(max(0, int.from_bytes(head[2:], "big") - 2))
        if head[1] in START_OF_FRAME and len(body) > 5:
            components, is_progressive = body[5], head[1] in PROGRESSIVE
        if head[1] == START_OF_SCAN:
            if not is_progressive and body[:1] == bytes([components]):
                return 1  # everything is in it, and the decoder reads no further
            break
    rest = file.read()
    scans, place = 1, 0
    while scans <= MAX_SCANS and (found := MARKER.search(rest, place)):
        marker, place = rest[found.end() - 1], found.end()
        if marker == END_OF_IMAGE:
            break
        scans += marker == START_OF_SCAN
        place += int.from_bytes(rest[place : place + 2], "big")
    return scans


def _return_freed_memory() -> None:
    """The allocator of glibc keeps what each thread has freed for that thread: with many threads, many large images."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another allocator
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from writing its errors to the process's stderr; they are exceptions of Pillow as well.

    It has one handler of errors for the whole process, and no way to give it one for a single file.
    """
    with contextlib.suppress(OSError, AttributeError):  # where the library is part of Pillow's own
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
