"""Pictures of a classifier with the class names and images that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.classification.pictures import (
    attention_figure,
    attention_grid,
    predictions_figure,
)
from opsin.pictures import confusion_figure, save_figure
from opsin.results import Classification

NAMES = [r"$\frac$", "日本", "a name of so many words that no picture has room for all of them", "[b]\udcff"]


def result(label: str) -> Classification:
    return Classification((label, "other"), (0.625, 0.25))


def test_any_class_name_can_be_drawn(tmp_path: Path) -> None:
    """Dollar signs are no formula, and a script that the font lacks is no warning (which would be an error here)."""
    image = Image.new("RGB", (9, 9))
    attention = np.full((3, 3), 1 / 9, dtype=np.float32)
    figures = [
        confusion_figure(np.eye(4, dtype=int), NAMES),
        predictions_figure([image] * 4, [result(name) for name in NAMES], NAMES[::-1]),
        *[attention_figure(image, attention, result(name)) for name in NAMES],
    ]
    for index, figure in enumerate(figures):
        save_figure(figure, tmp_path / f"{index}.png")
        with Image.open(tmp_path / f"{index}.png") as saved:
            assert saved.format == "PNG"


def test_long_names_are_cut_and_probabilities_are_not() -> None:
    figure = predictions_figure([Image.new("RGB", (9, 9))], [result("x" * 80)], ["y" * 80], columns=1)
    title = figure.axes[0].title
    assert "… 62%" in title.get_text()
    assert max(map(len, title.get_text().splitlines())) <= 22
    assert title.get_fontsize() >= 10


@pytest.mark.parametrize(("count", "labels"), [(9, 9), (100, 100), (250, 84)])
def test_confusion_of_many_classes_names_as_many_as_there_is_room_for(count: int, labels: int) -> None:
    figure = confusion_figure(np.eye(count, dtype=int), [f"class {index}" for index in range(count)])
    axes = figure.axes[0]
    ticks = axes.get_yticklabels()
    assert len(ticks) == len(axes.get_xticklabels()) == labels
    assert ticks[1].get_text() == f"class {int(axes.get_yticks()[1])}"
    points = figure.get_size_inches()[1] * 0.75 * 72  # of the part that the matrix itself takes up
    assert ticks[0].get_fontsize() * labels <= points


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (640, 480), (2000, 1500)])
def test_images_of_any_shape_lie_under_their_attention(size: tuple[int, int], tmp_path: Path) -> None:
    image = Image.new("RGB", size, "red")
    attention = np.full((4, 4), 1 / 16, dtype=np.float32)
    figure = attention_figure(image, attention, result("red"))
    shown, (under, heat) = figure.axes[0].images[0], figure.axes[1].images
    assert shown.get_array().shape[0] == shown.get_array().shape[1] == min(*size, 512)
    assert under.get_extent() == heat.get_extent()
    np.testing.assert_allclose(heat.get_array(), 1)
    save_figure(figure, tmp_path / "attention.png")
    assert len(attention_grid([image], attention[None], columns=1).axes) == 3
