"""Pictures of a diffusion model's drawings: a grid by prompt, a filmstrip of how they came about, and what judging them
gave."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from opsin.diffusion.drawings import Generation
from opsin.diffusion.evaluation import CloseCall, Evaluation
from opsin.diffusion.exam import SPOKEN
from opsin.diffusion.samplers import SAMPLERS
from opsin.files import atomic_write
from opsin.images.opening import Skipped
from opsin.pictures import TITLE_SIZE, cut, save_figure
from opsin.results import Table
from opsin.sources.outputs import png_info

TILE = 1.3
"""Inches to a side of one drawing."""
LABEL_WIDTH, LABEL_INCHES = 18, 1.9
"""Characters in a line of a label, and the room for it."""
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # of the Okabe-Ito palette, one a sampler
LONGEST_LABEL = 4 * LABEL_WIDTH
FRAMES = 9
MOST_IN_A_ROW = 8
MOST_ROWS = 40
"""Further rows are left out: a picture that long takes minutes to lay out, and at some length cannot be written."""
CLOSE_CALLS = 8
LONGEST_PROMPT = 200
"""Characters of a prompt in a table."""


def generations_figure(generations: Sequence[Generation]) -> Figure:
    """One row a prompt, which is written at its left, or above all when it is the only one; long rows are broken.

    Shows the first `MOST_ROWS` rows; see `drawings_shown`.
    """
    alone = len(generations) == 1
    rows = [
        ("" if alone or start else _label(generation.prompt), generation.images[start : start + MOST_IN_A_ROW])
        for generation in generations
        for start in range(0, len(generation.images), MOST_IN_A_ROW)
    ]
    figure = rows_figure(rows, [])
    if alone:
        width = LABEL_WIDTH * max(2, min(MOST_IN_A_ROW, len(generations[0].images)))
        title = textwrap.fill(cut(_label(generations[0].prompt), 3 * width), width)
        figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    return figure


@dataclass(frozen=True)
class SavedDrawings:
    """Drawings of a model, and the files that they are in: each in one of its own, many in a picture."""

    model: str
    generations: tuple[Generation, ...]
    files: tuple[tuple[Path, ...], ...]
    """Of each generation, in the order of its images."""
    pictures: Mapping[Path, int]
    """Of each picture, how many of the drawings it shows."""
    skipped: tuple[Skipped, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """Which drawings the pictures do not show, and where they are."""
        total = sum(map(len, self.files))
        return [
            f"{path} ends after {MOST_ROWS} rows, with {count} of the {total} drawings; all of them have files of "
            "their own"
            for path, count in self.pictures.items()
            if count < total
        ]

    def document(self) -> dict[str, Any]:
        """The names of the files as JSON types."""
        rows = [
            {"prompt": generation.prompt, "images": [str(path) for path in own]}
            for generation, own in zip(self.generations, self.files, strict=True)
        ]
        return {"model": self.model, "prompts": rows, "pictures": [str(path) for path in self.pictures]}

    def tables(self) -> list[Table]:
        """The files of each prompt."""
        rows = [
            (cut(generation.prompt, LONGEST_PROMPT), ", ".join(map(str, own)))
            for generation, own in zip(self.generations, self.files, strict=True)
        ]
        return [Table(("prompt", "images"), rows)]


def save_drawings(
    generations: Sequence[Generation], out: Path, *, model: str, scale: int = 1, filmstrip: Path | None = None
) -> SavedDrawings:
    """Write each drawing, enlarged by a whole number, into the PNG file that `drawing_paths` names, then all of them
    into `out`, and into `filmstrip` how they came about. Raises CheckpointError for files that cannot be written."""
    paths = iter(drawing_paths(out, sum(len(generation.images) for generation in generations)))
    files = []
    for generation in generations:
        files.append(tuple(islice(paths, len(generation.images))))
        for path, image in zip(files[-1], generation.images, strict=True):
            with atomic_write(path) as file:
                size = (image.width * scale, image.height * scale)
                image.resize(size, Image.Resampling.NEAREST).save(file, format="PNG", pnginfo=png_info())
    save_figure(generations_figure(generations), out)
    pictures = {out: drawings_shown(generations)}
    if filmstrip is not None:
        save_figure(filmstrip_figure(generations), filmstrip)
        pictures[filmstrip] = drawings_shown(generations, in_a_row=1)
    return SavedDrawings(model, tuple(generations), tuple(files), pictures)


def drawing_paths(out: Path, count: int) -> list[Path]:
    """A file beside `out` for each of so many drawings, numbered."""
    digits = len(str(count))
    return [out.with_name(f"{out.stem}-{number:0{digits}d}.png") for number in range(1, count + 1)]


def drawings_shown(generations: Sequence[Generation], in_a_row: int = MOST_IN_A_ROW) -> int:
    """How many of the drawings, from the first on, `generations_figure` shows; `filmstrip_figure` has one in a row."""
    lengths = [
        min(in_a_row, len(generation.images) - start)
        for generation in generations
        for start in range(0, len(generation.images), in_a_row)
    ]
    return sum(lengths[:MOST_ROWS])


def filmstrip_figure(generations: Sequence[Generation]) -> Figure:
    """One row an image, from noise to drawing, at evenly spread steps; needs generations with a trajectory.

    Shows the first `MOST_ROWS` images.
    """
    rows, titles = [], []
    for generation in generations:
        if not generation.trajectory:
            raise ValueError("these images were drawn without trajectory=True")
        for states in generation.trajectory:
            last = len(states) - 1
            shown = sorted({round(place) for place in np.linspace(0, last, min(FRAMES, last + 1))})
            titles = [f"step {place}" for place in shown]
            rows.append((_label(generation.prompt), [states[place] for place in shown]))
    return rows_figure(rows, titles)


def close_calls_figure(calls: Sequence[CloseCall]) -> Figure:
    """The first drawings, one a row, beside their nearest training images; their nearness is below the prompt."""
    rows = [
        (
            f"{cut(call.prompt, LONGEST_LABEL - 8)} ({call.nearness:.2f})",
            [call.drawing, call.by_features, call.by_pixels],
        )
        for call in calls[:CLOSE_CALLS]
    ]
    return rows_figure(rows, ["drawing", "nearest by\nfeatures", "nearest by\npixels"])


def fidelity_figure(evaluation: Evaluation) -> Figure:
    """Top-5 fidelity over steps: a panel for each guidance scale and each part of the prompts, a line a sampler."""
    scales = sorted({cell.guidance_scale for cell in evaluation.cells})
    figure = Figure(figsize=(1 + 3 * len(scales), 3 * len(evaluation.real)), layout="constrained", dpi=110)
    grid = figure.subplots(len(evaluation.real), len(scales), squeeze=False, sharex=True, sharey=True)
    for line, (part, real) in zip(grid, evaluation.real.items(), strict=True):
        line[0].set_ylabel(f"top-5, {SPOKEN[part]} prompts")
        for axes, scale in zip(line, scales, strict=True):
            cells = sorted((cell for cell in evaluation.cells if cell.guidance_scale == scale), key=lambda c: c.steps)
            if real.top5 is not None:  # else the drawings have none either
                axes.axhline(real.top5, color="black", linestyle="--", label="real images")
            for name, colour, marker in zip(SAMPLERS, COLOURS, "osD^", strict=True):
                if own := [cell for cell in cells if cell.sampler == name]:
                    places, shares = [cell.steps for cell in own], [cell.scores[part].top5 for cell in own]
                    axes.plot(places, shares, color=colour, marker=marker, markersize=4, label=name)
            axes.set(title=f"guidance {scale:g}", ylim=(0, 1.03))
            axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("steps")
    grid[0][0].legend(fontsize=8)
    return figure


def rows_figure(rows: Sequence[tuple[str, Sequence]], titles: Sequence[str]) -> Figure:
    """A label and images in each of the first `MOST_ROWS` rows; without any label, no room is kept for them.

    `titles` stand above the images of the first row.
    """
    rows = rows[:MOST_ROWS]
    columns = max((len(images) for _, images in rows), default=1)
    label_inches = LABEL_INCHES if any(label for label, _ in rows) else 0.0
    figure = Figure(
        figsize=(label_inches + TILE * columns + 0.4, TILE * max(1, len(rows)) + 0.4), layout="constrained", dpi=110
    )
    widths = [max(label_inches, 0.01), *[TILE] * columns]
    grid = figure.subplots(max(1, len(rows)), 1 + columns, squeeze=False, width_ratios=widths)
    for axes in grid.flat:
        axes.axis("off")
    for line, (label, images) in zip(grid, rows, strict=False):
        wrapped = textwrap.fill(cut(label, LONGEST_LABEL), LABEL_WIDTH)
        line[0].text(1, 0.5, wrapped, fontsize=TITLE_SIZE, ha="right", va="center", parse_math=False)
        for axes, image in zip(line[1:], images, strict=False):
            axes.imshow(image, interpolation="nearest")
    for axes, title in zip(grid[0][1:], titles, strict=False):
        axes.set_title(title, fontsize=TITLE_SIZE)
    return figure


def _label(prompt: str) -> str:
    return prompt if prompt.strip() else "(no prompt)"
