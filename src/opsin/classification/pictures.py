"""Pictures of a classifier: predictions, and where it looked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from opsin.classification.inference import Classifier
from opsin.images.opening import ImageLike, StoredImage
from opsin.pictures import (
    HEAT_LABEL,
    RIGHT,
    TITLE_SIZE,
    TITLE_WIDTH,
    WRONG,
    center_square,
    cut,
    overlay,
    reduced,
    save_figure,
)
from opsin.results import Classification


def predictions_figure(
    images: Sequence[ImageLike], results: Sequence[Classification], truths: Sequence[str], columns: int = 6
) -> Figure:
    """A grid of images, each titled with its predicted class and probability, and the true class when it is wrong."""
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(2.1 * columns, 2.55 * rows), layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, result, truth in zip(grid.flat, images, results, truths, strict=False):
        axes.imshow(reduced(image))
        right = result.labels[0] == truth
        longest = 2 * TITLE_WIDTH - 8
        lines = [f"{cut(result.labels[0], longest)} {result.probabilities[0]:.0%}"]
        lines += [] if right else [f"is {cut(truth, longest)}"]
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
        square = center_square(image)
        grid[2 * row, column].imshow(square)
        heat = overlay(grid[2 * row + 1, column], square, weights)
    if heat is not None:
        figure.colorbar(heat, ax=grid, label=HEAT_LABEL, shrink=0.6)
    return figure


def attention_figure(image: ImageLike, attention: np.ndarray, result: Classification) -> Figure:
    """The image as the model sees it beside the same image under its attention map (grid, grid)."""
    square = center_square(image)
    figure = Figure(figsize=(7.4, 3.8), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    left.imshow(square)
    best = zip(result.labels[:2], result.probabilities, strict=False)
    lines = [f"{cut(label, 32)} {probability:.0%}" for label, probability in best]
    left.set_title("\n".join(lines), fontsize=TITLE_SIZE, parse_math=False)
    heat = overlay(right, square, attention)
    right.set_title("where the model looked", fontsize=TITLE_SIZE)
    for axes in (left, right):
        axes.axis("off")
    figure.colorbar(heat, ax=right, label=HEAT_LABEL, shrink=0.85)
    return figure


def save_attention_pictures(
    classifier: Classifier, images: Sequence[Path | StoredImage], results: Sequence[Classification], directory: Path
) -> list[Path]:
    """One PNG an image, numbered in order, named after the image file; returns the paths."""
    maps = classifier.attention_maps(images)
    paths = []
    for index, (image, result, attention) in enumerate(zip(images, results, maps, strict=True)):
        path = directory / f"{index:04d}-{image.stem}.png"
        save_figure(attention_figure(image, attention, result), path)
        paths.append(path)
    return paths
