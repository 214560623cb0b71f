"""Greys of more than 8 bits, whole or floating, as 8 bits: which values are black and white, and what lies between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

EIGHT_BITS = 8
BITS = (10, 12, 14, 16)
"""What cameras and scanners record, and keep in 16 bits."""


def is_deep(mode: str) -> bool:
    """Whether images of this mode of Pillow have one channel of more than 8 bits."""
    return mode.startswith("I;16") or mode in ("I", "F")


@dataclass(frozen=True)
class GreyRange:
    """The values that become 0 and 255."""

    low: float
    high: float
    bits: int | None = None
    """Where whole numbers use only 10, 12 or 14 bits of a larger type: how many."""

    def to_eight_bits(self, values: np.ndarray) -> np.ndarray:
        """uint8 of the same shape; what is no number becomes black, infinity black or white."""
        values = np.nan_to_num(values.astype(np.float64), nan=self.low, posinf=self.high, neginf=self.low)
        return np.rint((values - self.low) / max(self.high - self.low, 1e-12) * 255).astype(np.uint8)


def grey_range(parts: Iterable[np.ndarray], mode: str) -> GreyRange:
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
            return GreyRange(0.0, 65535.0)
    elif low >= 0 and mode == "F" and high <= 1:
        return GreyRange(0.0, 1.0)
    elif low >= 0 and high < 2**EIGHT_BITS:
        return GreyRange(0.0, 255.0)
    bits = next((bits for bits in BITS if low >= 0 and high < 2**bits), None)
    if bits is None:
        return GreyRange(low, high)
    return GreyRange(0.0, float(2**bits - 1), bits if bits < 16 and mode != "F" else None)
