"""Pictures of similarities and of zero-shot labels, with the images, texts and sizes that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.clip.pictures import similarity_figure, zero_shot_figure
from opsin.clip.zero_shot import ZeroShotClassification
from opsin.pictures import RIGHT, WRONG, save_figure

NAMES = [r"$\frac$", "日本", "a name of so many words that no picture has room for all of them " * 3, "", "x" * 200]


@pytest.mark.parametrize(("texts", "images"), [(5, 3), (1, 1), (2, 25)])
def test_similarities_of_any_texts(texts: int, images: int, tmp_path: Path) -> None:
    """Dollar signs are no formula, and a script that the font lacks is no warning (which would be an error here)."""
    similarity = np.linspace(-1, 1, texts * images).reshape(texts, images)
    pictures = [Image.new("RGB", (10 + 30 * (index % 2), 20), "red") for index in range(images)]
    figure = similarity_figure(similarity, pictures, NAMES[:texts])
    save_figure(figure, tmp_path / "picture.png")
    axes = figure.axes[0]
    assert len(axes.images) == 1 + images
    assert len(axes.texts) == (texts * images if images <= 20 else 0)
    assert max(label.get_text().count("\n") for label in axes.get_yticklabels()) <= 2
    with Image.open(tmp_path / "picture.png") as saved:
        assert saved.format == "PNG"


def test_images_stand_upright_above_their_columns() -> None:
    image = Image.new("RGB", (10, 10), "red")
    image.paste("blue", (0, 5, 10, 10))
    figure = similarity_figure(np.array([[0.1, 0.2], [0.2, 0.1]]), [image, image], ["a", "b"])
    figure.canvas.draw()
    axes = figure.axes[0]
    drawn = axes.images[1]
    left, right, bottom, top = drawn.get_extent()
    assert -0.5 < left < right < 0.5
    assert axes.transData.transform((0, top))[1] > axes.transData.transform((0, bottom))[1]
    assert drawn.origin == "upper" and tuple(drawn.get_array()[0, 0]) == (255, 0, 0)
    assert axes.transData.transform((0, bottom))[1] > axes.transData.transform((0, 0))[1]


def test_similarities_that_are_all_the_same_and_numbers_that_do_not_fit() -> None:
    image = Image.new("RGB", (9, 9))
    low, high = similarity_figure(np.full((1, 2), 0.25), [image] * 2, ["a"]).axes[0].images[0].get_clim()
    assert low < 0.25 < high
    with pytest.raises(ValueError, match="2 captions and 2 images"):
        similarity_figure(np.zeros((1, 2)), [image] * 2, ["a", "b"])


def test_bars_are_as_long_as_labels_are_probable(tmp_path: Path) -> None:
    results = [ZeroShotClassification((NAMES[0], NAMES[2]), (0.75, 0.25), (0.3, 0.2)) for _ in range(5)]
    truths = [NAMES[0], "other", *[NAMES[0]] * 3]
    figure = zero_shot_figure([Image.new("RGB", (9, 20))] * 5, results, truths)
    save_figure(figure, tmp_path / "picture.png")
    bars = [axes for axes in figure.axes if axes.patches]
    assert len(bars) == 5
    assert [patch.get_width() for patch in bars[0].patches] == [0.75, 0.25]
    colours = [axes.patches[0].get_facecolor() for axes in bars]
    from matplotlib.colors import to_rgba

    assert colours == [to_rgba(RIGHT), to_rgba(WRONG), *[to_rgba(RIGHT)] * 3]
    assert any(text.get_text() == "is: other" for text in bars[1].texts)
    assert max(len(text.get_text()) for text in bars[0].texts) <= 22
