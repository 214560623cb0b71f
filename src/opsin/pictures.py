"""What the pictures of several systems share: colours, type, confusion matrices, maps over images, writing files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from opsin.files import atomic_write
from opsin.images.opening import ImageLike, open_image
from opsin.names import printable
from opsin.sources.outputs import SOFTWARE

HEAT_COLOURS = "viridis"  # perceptually uniform, and readable without colour vision
RIGHT, WRONG = "#0072B2", "#D55E00"  # blue and vermilion of the Okabe-Ito palette
TITLE_SIZE = 11  # points; the report shows wide figures at about two thirds of their size
TITLE_WIDTH = 22  # characters of that size above one image of a grid
HEAT_LABEL = "attention (1 = even share)"
MOST_TICK_LABELS = 100
LARGEST_PICTURE = 512
"""Pixels to a side at which images are drawn; more would cost memory and show nothing."""


def overlay(axes: Axes, square: Image.Image, attention: np.ndarray, top: float | None = None) -> AxesImage:
    """Draw the image in grey with the map (rows, columns) over it, in units of the share each patch has by chance.

    The colours end at `top` of these units, by default where nearly all of the map is below.
    """
    axes.imshow(square.convert("L"), cmap="gray", vmin=0, vmax=255, extent=(0, 1, 0, 1))
    relative = attention * attention.size
    top = top or highest_share(attention)
    return axes.imshow(relative, cmap=HEAT_COLOURS, alpha=0.6, extent=(0, 1, 0, 1), vmin=0, vmax=top)


def highest_share(attention: np.ndarray) -> float:
    """Where the colours of maps (..., rows, columns) should end, in units of the share each patch has by chance."""
    rows, columns = attention.shape[-2:]
    return max(2.0, float(np.quantile(attention * (rows * columns), 0.99)))


def confusion_figure(confusion: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Counts int (K, K), rows true and columns predicted, coloured by the share of each true class.

    The counts are written into the cells of up to 20 classes; of more than 100 classes only some are named.
    """
    K = len(class_names)
    side = min(max(4.5, 1.8 + 0.55 * K), 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=HEAT_COLOURS, vmin=0, vmax=1)
    named = range(0, K, -(-K // MOST_TICK_LABELS))
    labels = [cut(class_names[index], 40) for index in named]
    size = max(6.0, min(10.0, 700 / len(named)))  # so that neighbours do not touch at the largest figure
    # Class names are no formulas, also with dollar signs in them.
    axes.set_yticks(named, labels, fontsize=size, parse_math=False)
    axes.set_xticks(named, labels, fontsize=size, parse_math=False, rotation=45 if K <= 20 else 90)
    for label in axes.get_xticklabels():
        label.set(horizontalalignment="right", verticalalignment="center", rotation_mode="anchor")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if K <= 20:
        for row, column in np.ndindex(K, K):
            colour = "black" if shares[row, column] > 0.6 else "white"
            axes.text(
                column,
                row,
                str(int(confusion[row, column])),
                ha="center",
                va="center",
                color=colour,
                fontsize=9,
            )
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as file:
        file.write(png_of(figure))


def png_of(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Texts may be in a script that the font lacks: boxes in their place say the same as the warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def cut(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis, in one line of at most `length` characters that any font takes.

    White space becomes single spaces; see `printable` for what else is not shown as it is.
    """
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def center_square(image: ImageLike) -> Image.Image:
    """What a model sees of an image, of at most `LARGEST_PICTURE` pixels to a side."""
    opened = open_image(image, size=LARGEST_PICTURE)
    side = min(opened.size)
    left, top = (opened.width - side) // 2, (opened.height - side) // 2
    return reduced(opened.crop((left, top, left + side, top + side)))


def reduced(image: ImageLike) -> Image.Image:
    """A copy of at most `LARGEST_PICTURE` pixels to a side."""
    copy = open_image(image, size=LARGEST_PICTURE).copy()
    copy.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    return copy
