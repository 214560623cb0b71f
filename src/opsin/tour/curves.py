"""Learning curves of a run, from its metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from opsin.training.loggers import read_metrics

TRAIN, VALIDATION = "#0072B2", "#D55E00"


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
