"""Which stem a ResNet has for images of a size, and how small they can be; without torch, for configs to ask."""

from __future__ import annotations

LARGEST_SMALL_IMAGE = 63
"""Side in pixels up to which a ResNet has the stem for small images."""


def least_trained_side(image_size: int) -> int:
    """The least side of what a ResNet for images of this size can be trained on, in pixels.

    The last stage has to find maps of 2 x 2 places at least: of its convolutions of 3 x 3 and stride 2 on a single
    place the library that torch computes with on a CPU (oneDNN) gives wrong gradients in bfloat16, up to infinite ones.
    """
    return 5 if image_size <= LARGEST_SMALL_IMAGE else 17
