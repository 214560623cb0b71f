"""Pictures of a diffusion model's drawings: a grid by prompt, and a filmstrip of how they came about."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from opsin.diffusion.inference import Generation
from opsin.pictures import TITLE_SIZE, cut

TILE = 1.3
"""Inches to a side of one drawing."""
LABEL_WIDTH = 18
LONGEST_LABEL = 4 * LABEL_WIDTH
FRAMES = 9


def generations_figure(generations: Sequence[Generation]) -> Figure:
    """One row a prompt, which is written at its left."""
    rows = [(generation.prompt, generation.images) for generation in generations]
    return _rows_figure(rows, [])


def filmstrip_figure(generations: Sequence[Generation]) -> Figure:
    """One row an image, from noise to drawing, at evenly spread steps; needs generations with a trajectory."""
    rows, titles = [], []
    for generation in generations:
        if not generation.trajectory:
            raise ValueError("these images were drawn without trajectory=True")
        for states in generation.trajectory:
            last = len(states) - 1
            shown = sorted({round(place) for place in np.linspace(0, last, min(FRAMES, last + 1))})
            titles = [f"step {place}" for place in shown]
            rows.append((generation.prompt, [states[place] for place in shown]))
    return _rows_figure(rows, titles)


def _rows_figure(rows: Sequence[tuple[str, Sequence]], titles: Sequence[str]) -> Figure:
    columns = max((len(images) for _, images in rows), default=1)
    size = (TILE * columns + 2.0, TILE * max(1, len(rows)) + 0.4)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    grid = figure.subplots(max(1, len(rows)), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, (prompt, images) in zip(grid, rows, strict=False):
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image, interpolation="nearest")
        label = textwrap.fill(cut(prompt or "(no prompt)", LONGEST_LABEL), LABEL_WIDTH)
        line[0].text(
            -0.08,
            0.5,
            label,
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=TITLE_SIZE,
            parse_math=False,
        )
    for axes, title in zip(grid[0], titles, strict=False):
        axes.set_title(title, fontsize=TITLE_SIZE)
    return figure
