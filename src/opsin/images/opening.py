"""Opening images from the real world: whatever comes in, an RGB image in the right orientation comes out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from opsin.counts import none_of
from opsin.errors import DataError, DataNotFoundError
from opsin.files import NotRegularFile, open_regular
from opsin.images.decoding import MAX_PIXELS, MEMORY, decoding, map_rows, opening_bytes
from opsin.images.rendering import Rendering
from opsin.names import printable


@dataclass(frozen=True)
class StoredImage:
    """An image that is no file of its own, such as one in a parquet file; `str` gives its name."""

    name: str
    load: Callable[[int | None], Image.Image]
    """Gives the decoded RGB image for a `size` of `open_image`; raises DataError when it cannot be read."""

    @property
    def stem(self) -> str:
        """The last part of the name, without a suffix."""
        return PurePosixPath(self.name).stem

    def __str__(self) -> str:
        return self.name


ImageLike = str | Path | bytes | Image.Image | np.ndarray | StoredImage

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"]
    + [".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx"]
)
UNREAD_SUFFIXES = frozenset([".jxl", ".tga", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"])
"""Of images that are left out: there should be no wondering where they are."""


@dataclass(frozen=True)
class Skipped:
    """An image or folder that was left out, and why."""

    id: str
    """Fit to print, as the reason is."""
    reason: str


@dataclass(frozen=True)
class ImageFacts:
    """What `examine_image` finds out about an image."""

    size: tuple[int, int]
    """Width and height of the upright image."""
    digest: bytes
    """SHA-256 of size and pixels, as RGB."""
    used_bits: int | None
    """Of greys and colors that use only a part of 16 bits: how many, 10, 12 or 14."""


def open_image(
    image: ImageLike, name: str | None = None, *, background: str = "white", size: int | None = None
) -> Image.Image:
    """A decoded RGB image from a path, encoded bytes, a PIL image or an array.

    EXIF orientation is applied, colors are converted to sRGB by the file's color profile (ICC), transparency is laid
    over `background`, greys of more than 8 bits are scaled to 8 bits (see `opsin.images.grays`), of an animation the
    first frame is taken. The result carries no metadata, so that nothing is applied a second time: opened again, it is
    the same object. Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, or float in [0, 1].

    `size` is for callers that resize the shorter side to that many pixels: an image of more than 1,048,576 pixels may
    then come back reduced by a whole factor, with a shorter side of at least twice `size`; smaller ones stay as they
    are. That takes less time and much less memory.

    `name` stands in for the image in error messages. Raises DataError for a file that is missing, damaged, truncated,
    no image or no regular file, and for one beyond the limits of `opsin.images.decoding`: pixels, memory, scans.
    """
    with _rendering(image, name, background, size, whole=True) as rendering:
        result = rendering.whole()
    if result is not image:
        result.info = {}
    return result


def examine_image(image: ImageLike, name: str | None = None) -> ImageFacts:
    """What an image is, without the memory that a decoded RGB image takes; raises as `open_image` does."""
    with _rendering(image, name, "white", None, whole=False) as rendering:
        digest = hashlib.sha256(repr(rendering.size).encode())
        for band in rendering.bands():
            digest.update(band.tobytes())
        return ImageFacts(rendering.size, digest.digest(), rendering.used_bits)


def pixel_digest(image: Image.Image) -> bytes:
    """The same for two RGB images of equal size and pixels only (SHA-256)."""
    return examine_image(image).digest


@contextmanager
def _rendering(
    image: ImageLike, name: str | None, background: str, size: int | None, *, whole: bool
) -> Iterator[Rendering]:
    """A block for turning an image into RGB within bounded memory; whatever is wrong with it becomes a DataError."""
    if isinstance(image, StoredImage):
        image = image.load(size)
    name = name or (printable(str(image)) if isinstance(image, str | Path) else "an image")
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    try:
        with ExitStack() as stack:
            if isinstance(image, Image.Image):
                stack.enter_context(MEMORY.reserve(opening_bytes(image, size, whole=whole)))
                opened = image
            else:
                file = io.BytesIO(image) if isinstance(image, bytes) else stack.enter_context(open_regular(image))
                opened = stack.enter_context(decoding(file, name, size, whole=whole))
            yield Rendering.of(opened, background, size)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {name}") from error
    except (IsADirectoryError, PermissionError, NotRegularFile) as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} was refused: more than {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise DataError(f"there is not enough memory to open {name}") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files, also RuntimeError or struct.error
        raise DataError(f"{name} is damaged: {str(error)[:150] or type(error).__name__}") from error


class ImageReader:
    """Iterates over the images of files or sources, which threads open ahead; broken ones are listed, not fatal.

    While it is iterated over, `read` fills with the files of the images that it gave, in order, and `skipped` with
    those that could not be read.
    """

    def __init__(self, files: Sequence[Path | StoredImage], size: int | None = None) -> None:
        """`size` is that of `open_image`."""
        self.files = files
        self.size = size
        self.read: list[Path | StoredImage] = []
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[Image.Image]:
        for file, image in zip(self.files, map_rows(self._open, len(self.files)), strict=True):
            if isinstance(image, DataError):
                self.skipped.append(Skipped(printable(str(file)), str(image)))
            else:
                self.read.append(file)
                yield image

    def refuse_unread(self) -> None:
        """Raise DataError when there was no image that could be read."""
        if not self.read and self.skipped:
            subject = none_of(len(self.files), "file")
            raise DataError(f"{subject} is a readable image; the first: {self.skipped[0].reason}")

    def _open(self, place: int) -> Image.Image | DataError:
        try:
            return open_image(self.files[place], size=self.size)
        except DataError as error:
            return error


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
