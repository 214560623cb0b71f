"""Values of more than 8 bits as 8 bits: which of them are black and white, and what lies between.

Greys may be whole or floating. Of colors in 16 bits Pillow gives the higher byte alone, which is enough where they use
all 16 bits; see `use_few_bits`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageFile

EIGHT_BITS = 8
BITS = (10, 12, 14, 16)
"""What cameras and scanners record, and keep in 16 bits."""


def is_deep(mode: str) -> bool:
    """Whether images of this mode of Pillow have one channel of more than 8 bits."""
    return mode.startswith("I;16") or mode in ("I", "F")


_OTHER_END = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
SWAPPED = {f"{mode};16{end}": f"{mode};16{_OTHER_END[end]}" for mode in ("RGB", "RGBA") for end in _OTHER_END}
"""What Pillow calls colors in 16 bits in files, of which it takes the higher byte, and what makes it take the lower."""
USED_BITS = "opsin_used_bits"
"""The key of an image's `info` that says how many of 16 bits its colors use, where it is a part."""


def raw_mode(image: ImageFile.ImageFile) -> str | None:
    """How an image that is not decoded yet has colors in 16 bits in its file; None for all others."""
    modes = {tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args for tile in image.tile}
    mode = modes.pop() if len(modes) == 1 else None
    return mode if isinstance(mode, str) and mode in SWAPPED else None


def use_few_bits(image: ImageFile.ImageFile, file: BinaryIO, mode: str) -> None:
    """Scale the colors of an image in place, where they use 10, 12 or 14 bits of 16 only. It is decoded twice then."""
    image.load()
    bands = image.getextrema()
    highest = max(int(high) for _, high in bands[:3])  # type: ignore[misc]
    bits = next((bits for bits in BITS if highest < 2 ** (bits - EIGHT_BITS)), 16)
    if bits == 16 or highest == 0:  # no value above 255 means that the image is dark
        return
    lower = Image.open(file, formats=[str(image.format)])
    lower.tile = [
        tile._replace(args=(SWAPPED[mode], *tile.args[1:]) if isinstance(tile.args, tuple) else SWAPPED[mode])
        for tile in lower.tile
    ]
    scaled = ImageChops.add(
        image.convert("RGB").point(lambda value: value << (16 - bits)),
        lower.convert("RGB").point(lambda value: value >> (bits - EIGHT_BITS)),
    )
    if image.mode == "RGBA":
        scaled.putalpha(image.getchannel("A"))
    image.paste(scaled)
    image.info[USED_BITS] = bits


@dataclass(frozen=True)
class GrayRange:
    """The values that become 0 and 255."""

    low: float
    high: float
    bits: int | None = None
    """Where whole numbers use only 10, 12 or 14 bits of a larger type: how many."""

    def to_eight_bits(self, values: np.ndarray) -> np.ndarray:
        """uint8 of the same shape; what is no number becomes black, infinity black or white."""
        values = np.nan_to_num(values.astype(np.float64), nan=self.low, posinf=self.high, neginf=self.low)
        return np.rint((values - self.low) / max(self.high - self.low, 1e-12) * 255).astype(np.uint8)


def gray_range(parts: Iterable[np.ndarray], mode: str) -> GrayRange:
    """The range of the image of a mode that consists of these parts.

    It is the smallest usual one that holds all values: that of 8, 10, 12, 14 or 16 bits, of floats also 0 to 1. Values
    beyond them, or below zero, have their own range. Of 16-bit files no value above 255 means that the image is dark.
    """
    low, high = np.inf, -np.inf
    for part in parts:
        finite = part[np.isfinite(part)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:  # not a single finite value
        low, high = 0.0, 0.0
    if mode.startswith("I;16"):
        if high < 2**EIGHT_BITS:
            return GrayRange(0.0, 65535.0)
    elif low >= 0 and mode == "F" and high <= 1:
        return GrayRange(0.0, 1.0)
    elif low >= 0 and high < 2**EIGHT_BITS:
        return GrayRange(0.0, 255.0)
    bits = next((bits for bits in BITS if low >= 0 and high < 2**bits), None)
    if bits is None:
        return GrayRange(low, high)
    return GrayRange(0.0, float(2**bits - 1), bits if bits < 16 and mode != "F" else None)
