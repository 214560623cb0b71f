"""Image files whose pixels lie turned or mirrored, as cameras store them, with an EXIF tag that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright image lies in a file of each orientation."""


def four_corners(width: int = 48, height: int = 32) -> Image.Image:
    """An image that no turn leaves as it is: dark and bright, in a colour of its own in each corner."""
    rows, columns = np.mgrid[:height, :width]
    red, green = 255 * columns // (width - 1), 255 * rows // (height - 1)
    return Image.fromarray(np.stack([red, green, (255 - red) * green // 255], axis=2).astype(np.uint8))


def save_turned(upright: Image.Image, orientation: int, path: Path, format: str = "PNG", **options: Any) -> Path:
    """Write an image as a camera that was held in this way would; the suffix is that of the format."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    path = path.with_suffix({"JPEG": ".jpg", "TIFF": ".tif"}.get(format, f".{format.lower()}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, format, exif=exif, **options)
    return path
