"""Figures of features: neighbors and maps, with the names and sizes that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from opsin.pictures import RIGHT, WRONG, save_figure
from opsin.probing.pictures import (
    embedding_figure,
    embedding_map,
    neighbours_figure,
    principal_components,
)

NAMES = [r"$\frac$", "日本", "_hidden", "", "x" * 200]


def test_neighbours_of_another_class_are_orange(tmp_path: Path) -> None:
    images = [Image.new("RGB", (10 + 20 * (index % 2), 20), "red") for index in range(5)]
    names = (NAMES[:2], [[NAMES[0]] * 3, [NAMES[4]] * 3])
    figure = neighbours_figure(images[:2], [images[2:]] * 2, np.array([[0.9, 0.8, -0.1]] * 2), names)
    save_figure(figure, tmp_path / "picture.png")
    titles = [axes.title for axes in figure.axes]
    assert len(titles) == 8
    assert [title.get_color() for title in titles] == ["black", *[RIGHT] * 3, "black", *[WRONG] * 3]
    assert titles[3].get_text().startswith("-0.10")
    unnamed = neighbours_figure(images[:1], [images[2:]], np.array([[0.9, 0.8, -0.1]]))
    assert [axes.get_title() for axes in unnamed.axes] == ["image", "0.90", "0.80", "-0.10"]


@pytest.mark.parametrize(("count", "classes"), [(1, 1), (40, 5), (60, 30)])
def test_maps_of_any_classes(count: int, classes: int, tmp_path: Path) -> None:
    """Each image is a point; names that matplotlib would read as formulas or hide are in the legend."""
    labels = np.arange(count) % classes
    names = (NAMES + [str(index) for index in range(classes)])[:classes]
    features = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    figure = embedding_figure(features, labels, names)
    save_figure(figure, tmp_path / "picture.png")
    axes = figure.axes[0]
    assert sum(len(points.get_offsets()) for points in axes.collections) == count
    assert len(figure.legends[0].get_texts()) == (classes if classes <= 20 else 21)


def test_umap_keeps_neighbours_together() -> None:
    """Of features along an arc, the nearest point of the map is one of the nearest features."""
    pytest.importorskip("umap")
    angles = torch.linspace(0, 2, 60)
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    points, how = embedding_map(features)
    assert how.startswith("UMAP") and points.shape == (60, 2) and points.dtype == np.float32
    distances = torch.cdist(torch.from_numpy(points), torch.from_numpy(points)).fill_diagonal_(torch.inf)
    apart = (distances.argmin(dim=1) - torch.arange(60)).abs()
    assert (apart <= 5).float().mean() > 0.9


def test_principal_components_are_scikit_learns() -> None:
    features = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 8.0)
    expected = PCA(2, svd_solver="full").fit_transform(features.double().numpy())
    points = principal_components(features)
    signs = np.sign((points * expected).sum(axis=0))
    np.testing.assert_allclose(points, expected * signs, atol=1e-4)
    assert np.array_equal(principal_components(torch.ones(3, 1)), np.zeros((3, 2)))
