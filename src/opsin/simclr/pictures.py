"""Pictures of SimCLR: what its training was good for, how its features became better, and what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from opsin.pictures import RIGHT, TITLE_SIZE, WRONG, confusion_figure
from opsin.probing.evaluation import Knn, evaluate_encoder
from opsin.report import Picture, Section
from opsin.simclr.inference import SimclrEncoder

WITHOUT, WITH = WRONG, RIGHT


def comparison_figure(
    without: Sequence[float], pretrained: Sequence[float], *, axis: str = "epoch", title: str = "test top-1 accuracy"
) -> Figure:
    """The accuracies after each epoch of the same classifier, on an encoder that was pretrained and one that was not,
    all in [0, 1]; the course's comparison."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    curves = (("with pretraining", pretrained, WITH, "o-"), ("without pretraining", without, WITHOUT, "s--"))
    for label, values, colour, style in curves:
        axes.plot(range(1, len(values) + 1), values, style, color=colour, label=label, markersize=4)
    axes.set(xlabel=axis, ylabel="accuracy", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=TITLE_SIZE)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def knn_curve_figure(rows: Sequence[Mapping[str, float]], untrained: float | None = None) -> Figure:
    """The accuracy of nearest neighbours over the minutes of a training: `val_knn_accuracy` and `seconds` of those rows
    of its metrics.jsonl that have them. `untrained` is a line to compare with. Raises ValueError without such a row."""
    points = [(row["seconds"] / 60, row["val_knn_accuracy"]) for row in rows if "val_knn_accuracy" in row]
    if not points:
        raise ValueError(
            "no row of these metrics has a val_knn_accuracy: the source had no labels, or no held-out images"
        )
    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o-", color=WITH, markersize=4, label="nearest neighbours")
    if untrained is not None:
        axes.axhline(untrained, color=WITHOUT, linestyle="--", label="untrained")
        axes.legend()
    axes.set(xlabel="minutes of training", ylabel="accuracy on held-out images", xlim=(0, None), ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure


def held_out_section(encoder: SimclrEncoder) -> Section:
    """The vote of the nearest training images on held-out ones. Raises DataError when there are no labels."""
    evaluation = evaluate_encoder(encoder, Knn())
    metrics = evaluation.trained.metrics
    return Section(
        title="Nearest neighbors",
        introduction=f"{evaluation.protocol}: accuracy {metrics.accuracy:.1%}.",
        pictures=[
            Picture(
                evaluation.figure(),
                "Some of these images, evenly spread over all, and the labelled ones that are nearest to them, with "
                "their cosines.",
            ),
            Picture(
                confusion_figure(metrics.confusion, evaluation.class_names),
                "Which classes are taken for which: rows are the true class, columns the predicted one.",
            ),
        ],
    )
