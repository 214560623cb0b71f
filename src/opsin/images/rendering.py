"""From a decoded image of any mode to 8-bit sRGB: upright, opaque, and perhaps reduced.

The image is worked on in bands of rows, so that whatever a conversion needs besides is small.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageCms

from opsin.images.grays import USED_BITS, GrayRange, gray_range, is_deep

BAND_PIXELS = 2**20
FEWEST_ROWS = 8
"""Rows of the result that are made at a time, at least: those beside them are looked at as well."""
SMALL_IMAGE = 2**20
"""Images of no more pixels are never reduced: they are small already."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""
BICUBIC_SUPPORT = 2
"""Pixels of the result, to each side, that a pixel of it depends on."""
REDUCING_GAP = 2.0
"""Averages make an image of this many times the size of the result, which is then resized."""
FROM_THE_END = (3, 4, 7, 8)
"""Orientations in which the first row lies at the end of the file's rows or columns."""


def reduction(width: int, height: int, size: int | None) -> int:
    """By which whole factor an image that is to be resized to a shorter side of `size` is reduced before.

    The shorter side keeps at least twice as many pixels. The factor is 1 without a size, and for images of up to
    `SMALL_IMAGE` pixels.
    """
    if size is None or width * height <= SMALL_IMAGE:
        return 1
    return max(1, min(width, height) // (2 * size))


@dataclass(frozen=True)
class Rendering:
    """All that is decided about a loaded image before its bands are made."""

    image: Image.Image
    background: str
    factor: int
    orientation: int
    mode: str
    """The mode in which colors are taken to sRGB: RGB, L, CMYK or LAB."""
    greys: GrayRange | None
    convert: Conversion | None

    @classmethod
    def of(cls, image: Image.Image, background: str = "white", size: int | None = None) -> Rendering:
        """Look at an image; see `reduction` about `size`."""
        image.load()
        mode = _color_mode(image.mode)
        greys = gray_range(map(np.asarray, _bands(image)), image.mode) if is_deep(image.mode) else None
        convert = to_srgb(_profile(image), mode)
        factor = reduction(image.width, image.height, size)
        return cls(image, background, factor, _orientation(image), mode, greys, convert)

    @property
    def used_bits(self) -> int | None:
        """Of greys and colors that use only a part of 16 bits: how many."""
        return self.image.info.get(USED_BITS) if self.greys is None else self.greys.bits

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return self.image.size if self.orientation < 5 else self.image.size[::-1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        width, height = self.upright_size
        return round(width / self.factor), round(height / self.factor)

    def whole(self) -> Image.Image:
        """The image itself where there is nothing to do, else a new one."""
        if self._is_plain() and self.factor == 1 and self.orientation == 1:
            return self.image if type(self.image) is Image.Image else self.image.copy()
        bands = self.bands()
        first = next(bands)
        if first.size == self.size:
            return first
        result, top = Image.new("RGB", self.size), first.height
        result.paste(first)
        for band in bands:
            result.paste(band, (0, top))
            top += band.height
        return result

    def bands(self) -> Iterator[Image.Image]:
        """The result from top to bottom, in RGB images of its width."""
        (across, down), (width, height) = self.upright_size, self.size
        rows = max(FEWEST_ROWS, BAND_PIXELS // (across * self.factor))
        scale = down / height
        margin = 0 if self.factor == 1 else math.ceil(BICUBIC_SUPPORT * scale)
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            first, last = max(0, int(start * scale) - margin), min(down, math.ceil(stop * scale) + margin)
            part = self._to_srgb(self._upright_rows(first, last))
            if self.factor > 1:
                box = (0, start * scale - first, across, stop * scale - first)
                part = part.resize((width, stop - start), Image.Resampling.BICUBIC, box, REDUCING_GAP)
            yield part

    def _upright_rows(self, first: int, last: int) -> Image.Image:
        """These rows of the upright image, in its own mode."""
        across, down = self.upright_size
        if self.orientation in FROM_THE_END:
            first, last = down - last, down - first
        part = self.image.crop((first, 0, last, across) if self.orientation > 4 else (0, first, across, last))
        return part.transpose(UPRIGHT[self.orientation]) if self.orientation in UPRIGHT else part

    def _is_plain(self) -> bool:
        return self.image.mode == "RGB" and self.convert is None and not self.image.has_transparency_data

    def _to_srgb(self, part: Image.Image) -> Image.Image:
        if self._is_plain():
            return part
        if self.greys is not None:
            part = Image.fromarray(self.greys.to_eight_bits(np.asarray(part)))
        rgba = part.convert("RGBA") if part.has_transparency_data else None
        colors = (part if rgba is None else rgba).convert(self.mode)
        rgb = colors.convert("RGB") if self.convert is None else self.convert(colors)
        if rgba is None:
            return rgb
        rgb.putalpha(rgba.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", rgb.size, self.background), rgb).convert("RGB")


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _color_mode(mode: str) -> str:
    if mode in ("CMYK", "LAB"):
        return mode
    return "L" if mode in ("L", "LA", "La", "1") or is_deep(mode) else "RGB"


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else None


def _orientation(image: Image.Image) -> int:
    """What EXIF (or, without it, XMP) says. Of the EXIF nothing else is looked at: it may be odd in many ways."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises anything on a damaged EXIF; the pixels are whole
        return 1
    return orientation if orientation in UPRIGHT else 1


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
