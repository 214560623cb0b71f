"""Figures of the features of an encoder: nearest neighbors, and maps in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from opsin.images.opening import ImageLike
from opsin.pictures import RIGHT, TITLE_SIZE, TITLE_WIDTH, WRONG, center_square, cut

MOST_CLASSES = 20
"""Classes that a map tells apart by colours; of more, the most frequent ones are coloured and the others grey."""
OTHER = "#b0b0b0"


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
    axes.imshow(center_square(image))
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
