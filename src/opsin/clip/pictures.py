"""Pictures of an encoder of images and texts: how alike each pair is, and images with their most probable labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from opsin.images.opening import ImageLike
from opsin.pictures import HEAT_COLOURS, RIGHT, TITLE_SIZE, WRONG, center_square, cut
from opsin.results import Classification

MOST_IMAGES = 24
"""Images that a zero-shot grid draws: more fit on no page."""
CAPTION_WIDTH = 34  # characters of a line of a caption beside the matrix
CAPTION_LINES = 3
CELL = 0.85  # inches
OTHER_BAR = "#9a9a9a"
LABEL_WIDTH = 22  # characters of a label beside its bar
LABEL_SHARE = 1.75
"""Width of a label where a bar of probability 1 has the width 1."""
TEXT: dict[str, Any] = {"fontsize": 9, "parse_math": False}  # labels are no formulas, also with dollar signs in them


def similarity_figure(similarity: np.ndarray, images: Sequence[ImageLike], captions: Sequence[str]) -> Figure:
    """Cosines (N, M): a row for each of N captions, named at its side, a column for each of M images, drawn above it.

    The colours span the cosines that are there. The best image of each caption has a frame. Values are written into the
    cells of up to 20 columns. Raises ValueError for other numbers of images and captions than rows and columns.
    """
    N, M = similarity.shape
    if (len(captions), len(images)) != (N, M):
        raise ValueError(f"{N} x {M} cosines do not fit {len(captions)} captions and {len(images)} images")
    texts = [_wrapped(caption) for caption in captions]
    side = 0.09 * max(len(line) for text in texts for line in text.splitlines())
    size = (max(side + CELL * M + 1.2, 5.2), CELL * (N + 1) + 0.6)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = figure.subplots()
    low, high = _span(similarity)
    heat = axes.imshow(similarity, cmap=HEAT_COLOURS, vmin=low, vmax=high, aspect="equal")
    for column, image in enumerate(images):
        extent = (column - 0.46, column + 0.46, -0.58, -1.5)
        axes.imshow(center_square(image), extent=extent)
    axes.set(xlim=(-0.5, M - 0.5), ylim=(N - 0.5, -1.55))
    axes.set_yticks(range(N), texts, fontsize=10, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if M <= 20:
        middle = (low + high) / 2
        for (row, column), value in np.ndenumerate(similarity):
            colour = "black" if value > middle + (high - low) * 0.1 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=10)
    for row, column in enumerate(similarity.argmax(axis=1)):
        corner = (column - 0.47, row - 0.47)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=WRONG, linewidth=2.5))
    figure.suptitle("cosine of text and image; each text's best image is framed", fontsize=TITLE_SIZE)
    figure.colorbar(heat, ax=axes, shrink=0.6, aspect=25)
    return figure


def zero_shot_figure(
    images: Sequence[ImageLike],
    results: Sequence[Classification],
    truths: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """A grid of images, each above bars of its most probable labels.

    With `truths` the best label's bar is blue where it is the true one, and else orange with the true label beneath.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    bars = max((len(result.labels) for result in results), default=1)
    heights = [2.2, 0.26 * bars + 0.35] * rows
    figure = Figure(figsize=(2.9 * columns, sum(heights) + 0.2), layout="constrained", dpi=110)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.axis("off")
    for index, (image, result) in enumerate(zip(images, results, strict=True)):
        row, column = divmod(index, columns)
        grid[2 * row, column].imshow(center_square(image))
        axes = grid[2 * row + 1, column]
        truth = None if truths is None else truths[index]
        colour = WRONG if truth is not None and truth != result.labels[0] else RIGHT
        _draw_bars(axes, result, colour)
        if truth is not None and truth != result.labels[0]:
            place = len(result.labels)
            axes.text(-LABEL_SHARE, place, f"is: {cut(truth, LABEL_WIDTH)}", va="center", color=WRONG, **TEXT)
        axes.set(xlim=(-LABEL_SHARE, 1.35), ylim=(bars + 0.6, -0.6))
    return figure


def _draw_bars(axes: Axes, result: Classification, colour: str) -> None:
    """A line for each label: its name, and a bar as long as it is probable."""
    rest = len(result.labels) - 1
    axes.barh(range(rest + 1), result.probabilities, color=[colour] + [OTHER_BAR] * rest, height=0.72)
    for place, (label, probability) in enumerate(zip(result.labels, result.probabilities, strict=True)):
        weight = "bold" if place == 0 else "normal"
        axes.text(-LABEL_SHARE, place, cut(label, LABEL_WIDTH), va="center", weight=weight, **TEXT)
        axes.text(probability + 0.03, place, f"{probability:.0%}", va="center", **TEXT)


def _span(similarity: np.ndarray) -> tuple[float, float]:
    """Lowest and highest cosine, never so near that differences of rounding get colours."""
    low, high = float(similarity.min()), float(similarity.max())
    return (low, high) if high - low > 0.02 else ((low + high) / 2 - 0.01, (low + high) / 2 + 0.01)


def _wrapped(caption: str) -> str:
    """A caption in at most a few lines; words that are longer than a line are broken."""
    longest = CAPTION_WIDTH * CAPTION_LINES - CAPTION_LINES
    return textwrap.fill(
        cut(" ".join(caption.split()) or "(no words)", longest), CAPTION_WIDTH, max_lines=CAPTION_LINES, placeholder="…"
    )
