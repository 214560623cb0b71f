"""Learning curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opsin.pictures import TITLE_SIZE
from opsin.training.loggers import read_metrics
from opsin.training.selection import ERROR

# Of the Okabe-Ito palette, which is told apart without colour vision; markers say the same.
TRAIN, VALIDATION, CHOSEN = "#0072B2", "#D55E00", "#555555"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
PARTS = {"train": "training batches", "val": "held-out images", "seen": "training images"}
NUMBERED = re.compile(r"(?P<title>.*\D)_(?P<number>t?\d+)")
"""Metrics that differ by a number: `recall_at_5`, `loss_t50`."""
COURSE = ("learning_rate", "train_grad_norm", "samples_per_second", "waiting_for_data")
"""Metrics that say how a run went rather than what was learned."""
TITLES = {
    "bleu1": "BLEU-1",
    "bleu4": "BLEU-4",
    "cider_d": "CIDEr-D (of 10)",
    "distinct_ratio": "different captions / captions",
    "grad_norm": "norm of the gradient",
    "knn_accuracy": "kNN accuracy",
    "rouge_l": "ROUGE-L",
    "waiting_for_data": "share of time waiting for data",
}
COLUMNS = 2
MARKED = 30
"""Curves of more points have no markers."""


def learning_curves(metrics_file: Path, score: str, score_label: str, *, train_loss: str = "loss") -> Figure:
    """Loss on the left and a score on the right, over optimiser steps, for training and validation.

    `train_loss` names the metric of the training batches that is the same quantity as the validation loss, where what
    is minimised has further terms.
    """
    rows = read_metrics(metrics_file)
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=110)
    for axes, name, label in zip(figure.subplots(1, 2), ("loss", score), ("loss (nats)", score_label), strict=True):
        for part, colour, marker in (("train", TRAIN, ""), ("val", VALIDATION, "o")):
            key = f"train_{train_loss}" if (part, name) == ("train", "loss") else f"{part}_{name}"
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                text = "training batches (augmented)" if part == "train" else "held-out images"
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    marker=marker,
                    markersize=4,
                    linewidth=1.4,
                    label=text,
                )
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=10)
    return figure


def score_curves(rows: Sequence[Mapping[str, float]], chosen: int | None = None) -> Figure | None:
    """Losses and scores over the optimizer steps of a run, a panel a quantity; None where it measured nothing.

    Training and validation of one quantity are in one panel, and so are those that differ by a number only, such as
    recall at 1, 5 and 10. Standard errors are bands. `chosen` is the step whose weights the model has.
    """
    return _figure(rows, [name for name in _names(rows) if name not in COURSE], chosen)


def course_curves(rows: Sequence[Mapping[str, float]]) -> Figure | None:
    """Learning rate, norm of the gradient and throughput over the optimizer steps of a run; None without any."""
    return _figure(rows, [name for name in COURSE if name in _names(rows)], None)


class _Curve(NamedTuple):
    name: str
    """In metrics.jsonl."""
    part: str
    """What it was measured on, or empty."""
    number: str
    """What tells it from others in its panel, or empty."""

    @property
    def label(self) -> str:
        return ", ".join(text for text in (PARTS.get(self.part, ""), self.number) if text)


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """The quantities in order, those of validation first."""
    names = dict.fromkeys(name for row in rows for name in row)
    known = [name for name in names if name not in ("step", "epoch", "seconds") and not name.endswith(ERROR)]
    return sorted(known, key=lambda name: not name.startswith(("val_", "seen_")))


def _figure(rows: Sequence[Mapping[str, float]], names: Sequence[str], chosen: int | None) -> Figure | None:
    panels: dict[str, list[_Curve]] = {}
    for name in names:
        part, _, rest = name.partition("_")
        if part not in PARTS:
            part, rest = "", name
        match = NUMBERED.fullmatch(rest)
        title, number = (match["title"], match["number"]) if match else (rest, "")
        panels.setdefault(title, []).append(_Curve(name, part, number))
    if not panels:
        return None
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(9.5, 2.7 * lines + 0.3), layout="constrained", dpi=110)
    grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, rows, TITLES.get(title, title.replace("_", " ")), curves, chosen)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    return figure


def _draw_panel(
    axes: Axes, rows: Sequence[Mapping[str, float]], title: str, curves: Sequence[_Curve], chosen: int | None
) -> None:
    for index, curve in enumerate(curves):
        _draw_curve(axes, rows, curve, index if len(curves) > 2 else None)
    if chosen is not None:
        axes.axvline(chosen, color=CHOSEN, linestyle="--", linewidth=1.1, label=f"weights of the model, step {chosen}")
    has_legend = len(curves) > 1 or chosen is not None
    of = "" if has_legend or not curves[0].label else f" ({curves[0].label})"
    axes.set_title(title + of, fontsize=TITLE_SIZE)
    axes.set_xlabel("optimizer step")
    axes.tick_params(labelbottom=True)  # shared axes have them in the last row only, which may not be full
    axes.grid(alpha=0.3)
    if has_legend:
        axes.legend(fontsize=8)


def _draw_curve(axes: Axes, rows: Sequence[Mapping[str, float]], curve: _Curve, index: int | None) -> None:
    """`index` tells the curve from others in a panel of many, which need a colour and a marker each."""
    points = [(row["step"], row[curve.name], row.get(curve.name + ERROR, 0.0)) for row in rows if curve.name in row]
    steps, values, errors = (np.array(column) for column in zip(*points, strict=True))
    style = (VALIDATION, "o") if curve.part in ("val", "seen") else (TRAIN, ".")
    colour, marker = style if index is None else (SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)])
    marker = marker if len(steps) <= MARKED else ""
    axes.plot(steps, values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=curve.label or None)
    if errors.any():
        axes.fill_between(steps, values - errors, values + errors, color=colour, alpha=0.2, label="standard error")
