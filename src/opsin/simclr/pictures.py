"""Pictures of an encoder that learned without labels: what its training was good for, and what is near to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from opsin.images.opening import ImageLike
from opsin.pictures import RIGHT, TITLE_SIZE, TITLE_WIDTH, WRONG, centre_square, cut

WITHOUT, WITH = WRONG, RIGHT
MOST_CLASSES = 20
"""Classes that a map tells apart by colours; of more, the most frequent ones are coloured and the others grey."""
OTHER = "#b0b0b0"


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


def neighbours_figure(
    queries: Sequence[ImageLike], neighbours: Sequence[Sequence[ImageLike]], cosines: np.ndarray, names: Any = None
) -> Figure:
    """A row for each image: itself, then its neighbours (N, k), each under its cosine (N, k).

    `names`, where there are any, are classes: one of each image, and of each of its neighbours; those of another class
    are titled in orange.
    """
    N, k = cosines.shape
    figure = Figure(figsize=(1.5 * (k + 1), 1.9 * N), layout="constrained", dpi=110)
    grid = figure.subplots(N, k + 1, squeeze=False)
    for row, (query, nearest) in enumerate(zip(queries, neighbours, strict=True)):
        own, theirs = (names[0][row], names[1][row]) if names is not None else (None, [None] * k)
        _draw(grid[row, 0], query, "image" if own is None else f"image\n{cut(own, TITLE_WIDTH)}", "black", bold=True)
        for axes, image, cosine, name in zip(grid[row, 1:], nearest, cosines[row], theirs, strict=True):
            text = f"{cosine:.2f}" if name is None else f"{cosine:.2f}\n{cut(name, TITLE_WIDTH)}"
            _draw(axes, image, text, RIGHT if name == own else WRONG, bold=False)
    return figure


def _draw(axes: Any, image: ImageLike, title: str, colour: str, *, bold: bool) -> None:
    axes.imshow(centre_square(image))
    axes.set_title(title, fontsize=8, color=colour, weight="bold" if bold else "normal", parse_math=False)
    axes.axis("off")


def embedding_figure(features: Tensor, labels: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Each image as a point, coloured by its class: features (N, D) in the plane by UMAP where umap-learn is installed,
    and else by their first two principal components. `labels` int64 (N,) are indices into the names."""
    points, how = embedding_map(features)
    counts = np.bincount(labels, minlength=len(class_names))
    coloured = [label for label in np.argsort(-counts, kind="stable")[:MOST_CLASSES] if counts[label] > 0]
    figure = Figure(figsize=(8.2, 6.0), layout="constrained", dpi=110)
    axes = figure.subplots()
    others = ~np.isin(labels, coloured)
    size = float(np.clip(4000 / max(1, len(labels)), 3, 30))
    if others.any():
        axes.scatter(points[others, 0], points[others, 1], s=size, color=OTHER, linewidths=0, label="other classes")
    for place, label in enumerate(sorted(coloured)):
        # Two rounds of ten colours, told apart by their marks.
        mark = "o" if place < 10 else "^"
        shown = points[labels == label]
        name = cut(class_names[label], 28).replace("$", r"\$").lstrip("_")
        axes.scatter(
            shown[:, 0],
            shown[:, 1],
            s=size,
            color=f"C{place % 10}",
            marker=mark,
            linewidths=0,
            label=name or "(no name)",
        )
    axes.set_title(how, fontsize=TITLE_SIZE)
    axes.set(xticks=[], yticks=[])
    figure.legend(loc="outside right upper", fontsize=8, markerscale=2)
    return figure


def embedding_map(features: Tensor, seed: int = 0) -> tuple[np.ndarray, str]:
    """Points float32 (N, 2) of features (N, D), and the name of the method: see `embedding_figure`."""
    if find_spec("umap") is not None and len(features) > 15:  # its default number of neighbours
        import umap

        reducer = umap.UMAP(metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(features.numpy()), dtype=np.float32), "UMAP of the features, by cosine"
    return principal_components(features), "first two principal components of the features"


def principal_components(features: Tensor) -> np.ndarray:
    """The first two of features (N, D), float32 (N, 2); zeros where the features span less. The sign of a component is
    such that its largest weight is positive."""
    centred = (features - features.mean(dim=0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    directions = vectors[:, -2:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    points = centred @ (directions * largest.sign())
    padded = torch.zeros(len(features), 2)
    padded[:, : points.shape[1]] = points.float()
    return padded.numpy()
