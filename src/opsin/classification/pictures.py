"""Pictures of a classifier: confusion matrix, predictions, and where it looked."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from opsin.checkpoint import atomic_write
from opsin.classification.inference import Classification, Classifier
from opsin.data.images import ImageLike, open_image

HEAT_COLOURS = "viridis"  # perceptually uniform, and readable without colour vision
RIGHT, WRONG = "#0072B2", "#D55E00"  # blue and vermilion of the Okabe-Ito palette
TITLE_SIZE = 11  # points; the report shows wide figures at about two thirds of their size
TITLE_WIDTH = 22  # characters of that size above one image of a grid
LARGEST_PICTURE = 512
"""Pixels to a side at which images are drawn; more would cost memory and show nothing."""
MOST_TICK_LABELS = 100


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
    labels = [_cut(class_names[index], 40) for index in named]
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


def predictions_figure(
    images: Sequence[ImageLike], results: Sequence[Classification], truths: Sequence[str], columns: int = 6
) -> Figure:
    """A grid of images, each titled with its predicted class and probability, and the true class when it is wrong."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(2.1 * columns, 2.55 * rows), layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, result, truth in zip(grid.flat, images, results, truths, strict=False):
        axes.imshow(_reduced(open_image(image)))
        right = result.labels[0] == truth
        longest = 2 * TITLE_WIDTH - 8
        lines = [f"{_cut(result.labels[0], longest)} {result.probabilities[0]:.0%}"]
        lines += [] if right else [f"is {_cut(truth, longest)}"]
        title = "\n".join(textwrap.fill(line, TITLE_WIDTH) for line in lines)
        axes.set_title(title, fontsize=TITLE_SIZE, color=RIGHT if right else WRONG, parse_math=False)
    return figure


def attention_grid(images: Sequence[ImageLike], attention: np.ndarray, columns: int = 6) -> Figure:
    """Images above, the same images under their attention maps (N, grid, grid) below, in rows of `columns`."""
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(2.1 * columns + 0.6, 4.3 * rows), layout="constrained", dpi=110)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    heat = None
    for index, (image, weights) in enumerate(zip(images, attention, strict=True)):
        row, column = divmod(index, columns)
        square = _centre_square(open_image(image))
        grid[2 * row, column].imshow(square)
        heat = _overlay(grid[2 * row + 1, column], square, weights)
    if heat is not None:
        figure.colorbar(heat, ax=grid, label="attention (1 = even share)", shrink=0.6)
    return figure


def attention_figure(image: ImageLike, attention: np.ndarray, result: Classification) -> Figure:
    """The image as the model sees it beside the same image under its attention map (grid, grid)."""
    square = _centre_square(open_image(image))
    figure = Figure(figsize=(7.4, 3.8), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    left.imshow(square)
    best = zip(result.labels[:2], result.probabilities, strict=False)
    lines = [f"{_cut(label, 32)} {probability:.0%}" for label, probability in best]
    left.set_title("\n".join(lines), fontsize=TITLE_SIZE, parse_math=False)
    heat = _overlay(right, square, attention)
    right.set_title("where the model looked", fontsize=TITLE_SIZE)
    for axes in (left, right):
        axes.axis("off")
    figure.colorbar(heat, ax=right, label="attention (1 = even share)", shrink=0.85)
    return figure


def _overlay(axes: Axes, square: Image.Image, attention: np.ndarray) -> AxesImage:
    """Draw the image in grey with the map over it, in units of the share each patch would have by chance."""
    axes.imshow(square.convert("L"), cmap="gray", vmin=0, vmax=255, extent=(0, 1, 0, 1))
    relative = attention * attention.size
    top = max(2.0, float(np.quantile(relative, 0.99)))
    return axes.imshow(relative, cmap=HEAT_COLOURS, alpha=0.6, extent=(0, 1, 0, 1), vmin=0, vmax=top)


def save_attention_pictures(
    classifier: Classifier, images: Sequence[Path], results: Sequence[Classification], directory: Path
) -> list[Path]:
    """One PNG an image, numbered in order, named after the image file; returns the paths."""
    maps = classifier.attention_maps(images)
    paths = []
    for index, (image, result, attention) in enumerate(zip(images, results, maps, strict=True)):
        path = directory / f"{index:04d}-{image.stem}.png"
        save_figure(attention_figure(image, attention, result), path)
        paths.append(path)
    return paths


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as file, warnings.catch_warnings():
        # Class names may be in a script that the font lacks: boxes in their place say the same as the warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _centre_square(image: Image.Image) -> Image.Image:
    """What the model sees of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _reduced(image.crop((left, top, left + side, top + side)))


def _reduced(image: Image.Image) -> Image.Image:
    reduced = image.copy()
    reduced.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    return reduced
