"""Pictures of a captioner: images with their captions, and, word by word, where the decoder looked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from opsin.captioning.inference import Caption
from opsin.captioning.metrics import is_exact_match
from opsin.images.opening import ImageLike, StoredImage
from opsin.pictures import (
    HEAT_LABEL,
    RIGHT,
    TITLE_SIZE,
    TITLE_WIDTH,
    WRONG,
    center_square,
    cut,
    highest_share,
    overlay,
    reduced,
    save_figure,
)

MOST_WORDS = 59
"""Words of one caption that get a picture; with the image they fill ten rows of six."""
LONGEST_TITLE = 4 * TITLE_WIDTH
LINE_HEIGHT = 0.22
"""Inches that a line of a title takes."""


def captions_figure(
    images: Sequence[ImageLike], captions: Sequence[str], truths: Sequence[Sequence[str]], columns: int = 4
) -> Figure:
    """A grid of images, each titled with its caption: blue when it is one of the true ones, else orange, with one."""
    rows = max(1, -(-len(images) // columns))
    rights = [is_exact_match(*pair) for pair in zip(captions, truths, strict=True)]
    titles = []
    for caption, texts, right in zip(captions, truths, rights, strict=True):
        lines = [cut(caption or "(no words)", LONGEST_TITLE)]
        lines += [] if right else [f"is: {cut(texts[0], LONGEST_TITLE)}"]
        titles.append("\n".join(textwrap.fill(line, TITLE_WIDTH) for line in lines))
    most_lines = max((title.count("\n") + 1 for title in titles), default=1)
    size = (2.3 * columns, (2.5 + LINE_HEIGHT * most_lines) * rows)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title, right in zip(grid.flat, images, titles, rights, strict=False):
        axes.imshow(reduced(image))
        axes.set_anchor("S")  # what the image leaves of its place belongs to the title above it
        axes.set_title(title, fontsize=TITLE_SIZE, color=RIGHT if right else WRONG, parse_math=False)
    return figure


def attention_by_word(images: Sequence[ImageLike], captions: Sequence[Caption], columns: int = 6) -> Figure:
    """Each image as the model sees it, under its caption, then once for each word under what the decoder looked at.

    An image begins a new row of at most `columns` and takes as many rows as its words need; all maps of the figure
    share one scale. The captions must have been written with `attention=True`.
    """
    maps = [_maps(caption) for caption in captions]
    columns = min(columns, max((1 + len(own) for own in maps), default=1))
    heights = [-(-(1 + len(own)) // columns) for own in maps]
    titles = [_title(caption) for caption in captions]
    height_of_titles = LINE_HEIGHT * sum(title.count("\n") for title in titles)
    size = (2.1 * columns + 0.8, 2.5 * max(1, sum(heights)) + height_of_titles)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    grid = figure.subplots(max(1, sum(heights)), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    shares = [highest_share(own) for own in maps if len(own)]
    heat, first = None, 0
    for image, caption, title, own, height in zip(images, captions, titles, maps, heights, strict=True):
        tiles = grid[first : first + height].flat
        square = center_square(image)
        tile = next(tiles)
        tile.imshow(square)
        tile.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
        for tile, word, weights in zip(tiles, caption.words, own, strict=False):
            heat = overlay(tile, square, weights, top=max(shares))
            tile.set_title(cut(word, TITLE_WIDTH - 4), fontsize=TITLE_SIZE, parse_math=False)
        first += height
    if heat is not None:
        figure.colorbar(heat, ax=grid, label=HEAT_LABEL, shrink=min(0.8, 0.6 + 0.2 / sum(heights)), aspect=25)
    return figure


def save_attention_pictures(images: Sequence[Path | StoredImage], captions: Sequence[Caption], directory: Path) -> None:
    """One PNG an image, numbered in order, named after the image file."""
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        save_figure(attention_by_word([image], [caption]), directory / f"{index:04d}-{image.stem}.png")


def _maps(caption: Caption) -> np.ndarray:
    """The maps of the words that are drawn."""
    if caption.attention is None:
        raise ValueError("this caption was written without attention=True")
    return caption.attention[:MOST_WORDS]


def _title(caption: Caption) -> str:
    """The caption in lines, and whether it has words without a map."""
    lines = textwrap.wrap(cut(caption.text, LONGEST_TITLE) or "(no words)", TITLE_WIDTH)
    if len(caption.words) > MOST_WORDS:
        lines.append(f"(first {MOST_WORDS} of {len(caption.words)} words)")
    return "\n".join(lines)
