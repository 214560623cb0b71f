"""Color profiles (ICC): from the colors that a file's numbers stand for to the same colors in sRGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 2**23
"""Larger profiles are not used. Those of printing presses have 0.5 to 3 MB."""
COLOR_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
"""What a profile calls the color space of each of Pillow's modes that can have one."""
SAME = 1
"""A profile that changes no color by more levels (of 255) than this is taken for sRGB."""

Conversion = Callable[[Image.Image], Image.Image]


@lru_cache(maxsize=16)
def to_srgb(profile: bytes | None, mode: str) -> Conversion | None:
    """What makes RGB images in sRGB of images of a mode (`RGB`, `L`, `CMYK` or `LAB`) with this profile.

    None where there is nothing to convert: without a profile, for one that is damaged or for images of another mode,
    whose numbers are taken as they are, and for sRGB itself. Only `LAB` has a meaning without a profile.
    """
    source = _opened(profile, mode)
    if source is None and mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if source is None:
        return None
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    # Greys go through a table of 256, so that it may take its time to be exact.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    try:
        transform = ImageCms.ImageCmsTransform(source, target, mode, "RGB", flags=flags)
    except Exception:  # the profile lacks what it takes
        return None
    if mode in ("CMYK", "LAB"):
        return transform.apply
    colors = _sample(mode)
    converted = transform.apply(colors)
    changes = np.asarray(converted).astype(np.int64) - np.asarray(colors.convert("RGB"))
    if np.abs(changes).max() <= SAME:
        return None
    if mode == "RGB":
        return transform.apply
    table = np.asarray(converted)[0].T.ravel().tolist()
    return lambda image: image.convert("RGB").point(table)


def _opened(profile: bytes | None, mode: str) -> ImageCms.ImageCmsProfile | None:
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return opened if opened.profile.xcolor_space.strip() == COLOR_SPACES[mode] else None
    except Exception:  # a damaged profile can end in anything; the pixels are whole
        return None


def _sample(mode: str) -> Image.Image:
    """An image of all greys, and of colors over the whole range where the mode has them."""
    greys = np.arange(256, dtype=np.uint8)[None]
    if mode == "L":
        return Image.fromarray(greys)
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(np.concatenate([colors, np.repeat(greys[:, :, None], 3, axis=2)], axis=1))
