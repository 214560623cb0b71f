"""Pictures of a captioner with the images and captions that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.captioning.inference import Caption
from opsin.captioning.pictures import (
    LINE_HEIGHT,
    MOST_WORDS,
    attention_by_word,
    captions_figure,
    save_attention_pictures,
)
from opsin.pictures import RIGHT, TITLE_WIDTH, WRONG

IMAGE = Image.new("RGB", (30, 20), "red")


def looked(words: list[str], strength: float = 0.5) -> Caption:
    """A caption whose word i was written looking mostly at patch i of 4 x 4."""
    attention = np.full((len(words), 4, 4), (1 - strength) / 15, dtype=np.float32)
    for place in range(len(words)):
        attention[place].flat[place % 16] = strength
    return Caption(" ".join(words), tuple(words), -1.0, attention)


def test_titles_say_what_was_written_and_what_is_true() -> None:
    figure = captions_figure([IMAGE] * 3, ["A red cat!", "a dog", ""], [("a red cat",), ("a cow", "x"), ("a cow",)])
    titles = [axes.title for axes in figure.axes[:3]]
    assert [title.get_text() for title in titles] == ["A red cat!", "a dog\nis: a cow", "(no words)\nis: a cow"]
    assert [title.get_color() for title in titles] == [RIGHT, WRONG, WRONG]


def test_each_word_has_its_own_map_on_one_scale() -> None:
    captions = [looked(["one", "two", "three"], 0.9), looked(["four"], 0.2)]
    figure = attention_by_word([IMAGE, IMAGE], captions, columns=3)
    tiles = figure.axes[:9]
    expected = ["one two three", "one", "two", "three", "", "", "four", "four", ""]
    assert [axes.title.get_text() for axes in tiles] == expected
    for place, word, caption in ((1, 0, captions[0]), (2, 1, captions[0]), (3, 2, captions[0]), (7, 0, captions[1])):
        assert caption.attention is not None
        heat = tiles[place].images[1]
        np.testing.assert_allclose(heat.get_array(), caption.attention[word] * 16)
        assert heat.get_clim() == tiles[1].images[1].get_clim()
    assert all(title.get_fontsize() >= 10 for axes in tiles for title in [axes.title])


def test_a_long_caption_is_wrapped_above_its_image() -> None:
    words = [f"word{number}" for number in range(12)]
    short, long = (attention_by_word([IMAGE], [looked(own)]) for own in (words[:1], words))
    lines = long.axes[0].title.get_text().split("\n")
    assert len(lines) > 1 and all(len(line) <= TITLE_WIDTH for line in lines)
    assert "".join(words).startswith("".join(lines).replace(" ", "").rstrip("…"))
    assert long.get_figheight() - 3 * short.get_figheight() == pytest.approx(LINE_HEIGHT * (len(lines) - 1))


def test_captions_of_any_length_and_script_can_be_drawn(tmp_path: Path) -> None:
    words = [[], ["$a_b$", "日本", "x" * 300], [f"w{number}" for number in range(200)]]
    paths = [tmp_path / f"{name}.png" for name in ("none", "odd", "long")]
    for path in paths:
        IMAGE.save(path)
    captions = [looked(own) for own in words]
    save_attention_pictures(paths, captions, tmp_path / "looked")
    written = sorted((tmp_path / "looked").iterdir())
    assert [path.name for path in written] == ["0000-none.png", "0001-odd.png", "0002-long.png"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    figure = attention_by_word([IMAGE], captions[2:])
    assert f"(first {MOST_WORDS} of 200 words)" in figure.axes[0].title.get_text()


def test_attention_must_have_been_asked_for() -> None:
    with pytest.raises(ValueError, match="attention=True"):
        attention_by_word([IMAGE], [Caption("a", ("a",), -1.0)])
