"""Opening images from the real world: whatever comes in, an RGB image in the right orientation comes out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from opsin.data.names import printable
from opsin.data.threads import map_rows
from opsin.errors import DataError
from opsin.files import NotRegularFile, open_regular


@dataclass(frozen=True)
class StoredImage:
    """An image that is no file of its own, such as one in a parquet file; `str` gives its name."""

    name: str
    load: Callable[[], Image.Image]
    """Gives the decoded RGB image; raises DataError when it cannot be read."""

    @property
    def stem(self) -> str:
        """The last part of the name, without a suffix."""
        return PurePosixPath(self.name).stem

    def __str__(self) -> str:
        return self.name


ImageLike = str | Path | bytes | Image.Image | np.ndarray | StoredImage

MAX_PIXELS = 178_956_970
"""Images with more pixels are refused before they are decoded: a small file can ask for all the memory there is.

This is the size above which Pillow itself refuses them; it warns from half of it on."""

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"]
)
UNREAD_SUFFIXES = frozenset([".heic", ".heif", ".jxl", ".jp2", ".tga", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw"])
"""Of images that are left out: there should be no wondering where they are."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Formats of files with these suffixes, as Pillow calls them. It knows more, and runs another program for one (EPS)."""

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


@dataclass(frozen=True)
class Skipped:
    """An image or folder that was left out, and why."""

    id: str
    """Fit to print, as the reason is."""
    reason: str


def open_image(image: ImageLike, name: str | None = None, *, background: str = "white") -> Image.Image:
    """A decoded RGB image from a path, encoded bytes, a PIL image or an array.

    EXIF orientation is applied, transparency is laid over `background`, 16-bit and float greys are scaled to 8 bits, of
    an animation the first frame is taken. The result carries no metadata (`info` is empty, and there is no EXIF), so
    that nothing is applied a second time: opened again, it is the same object. Arrays are (H, W), (H, W, 1), (H, W, 3)
    or (H, W, 4), uint8, or float in [0, 1]. `name` stands in for the image in error messages. Raises DataError for a
    file that is missing, damaged, truncated, no image, or larger than `MAX_PIXELS`.
    """
    if isinstance(image, StoredImage):
        return image.load()
    name = name or (printable(str(image)) if isinstance(image, str | Path) else "an image")
    if isinstance(image, np.ndarray):
        return _to_upright_rgb(_from_array(image, name), background)
    try:
        if isinstance(image, Image.Image):
            return _to_upright_rgb(image, background)
        if isinstance(image, bytes):
            return _decode(io.BytesIO(image), name, background)
        with open_regular(image) as file:
            return _decode(file, name, background)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {name}") from error
    except (IsADirectoryError, PermissionError, NotRegularFile) as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} was refused: more than {MAX_PIXELS:,} pixels") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files, also RuntimeError or struct.error
        raise DataError(f"{name} is damaged: {str(error)[:150] or type(error).__name__}") from error


def pixel_digest(image: Image.Image) -> bytes:
    """The same for two RGB images of equal size and pixels only (SHA-256)."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


class ImageReader:
    """Iterates over the images of files or sources, which threads open ahead; broken ones are listed, not fatal.

    While it is iterated over, `read` fills with the files of the images that it gave, in order, and `skipped` with
    those that could not be read.
    """

    def __init__(self, files: Sequence[Path | StoredImage]) -> None:
        self.files = files
        self.read: list[Path | StoredImage] = []
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[Image.Image]:
        for file, image in zip(self.files, map_rows(self._open, len(self.files)), strict=True):
            if isinstance(image, DataError):
                self.skipped.append(Skipped(printable(str(file)), str(image)))
            else:
                self.read.append(file)
                yield image

    def _open(self, place: int) -> Image.Image | DataError:
        try:
            return open_image(self.files[place])
        except DataError as error:
            return error


def _decode(file: BinaryIO, name: str, background: str) -> Image.Image:
    image = Image.open(file, formats=_formats())
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name} was refused: it has {image.width} x {image.height} pixels, and the limit is {MAX_PIXELS:,}; "
            "make it smaller"
        )
    return _to_upright_rgb(image, background)


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_upright_rgb(image: Image.Image, background: str) -> Image.Image:
    """The image itself where it is a plain upright RGB image, else a new one without metadata."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    converted = _to_rgb(image, background)
    if turn is not None:
        converted = converted.transpose(turn)
    elif type(converted) is not Image.Image:  # that of a file format, with what the file says besides the pixels
        converted = converted.copy()
    if converted is not image:
        converted.info = {}
    return converted


def _orientation(image: Image.Image) -> int:
    """What EXIF (or, without it, XMP) says. Of the EXIF nothing else is looked at: it may be odd in many ways."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises anything on a damaged EXIF; the pixels are whole
        return 1


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    """Greys of more than 8 bits as uint8 (H, W)."""
    values = np.asarray(image).astype(np.float64)
    low, high = _grey_range(values[np.isfinite(values)], image.mode)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.rint((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)


def _grey_range(values: np.ndarray, mode: str) -> tuple[float, float]:
    """What black and white are: of 16-bit files their full range, else the smallest usual range that holds all values,
    else the values' own."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = (float(values.min()), float(values.max())) if len(values) > 0 else (0.0, 0.0)
    usual = [1.0, 255.0, 65535.0] if mode == "F" else [255.0, 65535.0]
    fitting = [top for top in usual if low >= 0 and high <= top]
    return (0.0, fitting[0]) if fitting else (low, high)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise DataError(f"{name}: an array of shape {array.shape} is no image; use (H, W), (H, W, 3) or (H, W, 4)")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise DataError(f"{name}: float arrays must hold values in [0, 1]")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{name}: arrays must be uint8 or float, not {array.dtype}")
    return Image.fromarray(array)
