"""Decoding a whole source: one size, broken rows dropped from everything at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.data.pixels import each_image, fit_image, load_pixels, pixel_batches
from opsin.errors import DataError
from opsin.images.decoding import map_rows
from opsin.sources.opening import open_source
from tests.conftest import MakeImage


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 200), (16, 32), (1, 1)])
def test_fit_is_the_shorter_side_resized_and_the_centre_cropped(size: tuple[int, int]) -> None:
    """Against resizing everything first: the same but for the edges of the crop, at sizes where nothing is rounded."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    width, height = size[0] * 32 // min(size), size[1] * 32 // min(size)
    left, top = (width - 32) // 2, (height - 32) // 2
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32)), dtype=np.int64).transpose(2, 0, 1)
    fitted = fit_image(image, 32)
    assert fitted.shape == (3, 32, 32)
    assert fitted.dtype == np.uint8
    assert np.abs(fitted - expected)[:, 2:-2, 2:-2].mean() < 3


def test_stacks_of_arrays_are_told_from_one_image() -> None:
    for shape in ((8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 4)):
        (image,) = each_image(np.zeros(shape, dtype=np.uint8))
        assert isinstance(image, np.ndarray) and image.shape == shape
    for shape in ((2, 8, 9), (2, 8, 9, 3), (2, 8, 9, 1)):
        assert len(list(each_image(np.zeros(shape, dtype=np.uint8)))) == 2
    images = [np.full((4, 4, 3), number, dtype=np.uint8) for number in range(5)]
    batches = list(pixel_batches(iter(images), 4, 2))
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert list(pixel_batches([], 4, 2)) == []


def test_image_of_the_right_size_is_untouched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (fit_image(noise, 16) == noise.transpose(2, 0, 1)).all()


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit_image(stripes, 16).astype(int) - 128).max() < 16


def test_very_long_and_thin_image() -> None:
    assert fit_image(Image.new("RGB", (1_000_000, 2), "red"), 64).shape == (3, 64, 64)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_rows_are_mapped_in_order(count: int) -> None:
    assert list(map_rows(lambda row: row**2, count)) == [row**2 for row in range(count)]


def test_broken_rows_leave_everything_aligned(make_image: MakeImage, tmp_path: Path) -> None:
    colours = {"a": (10, 0, 0), "c": (30, 0, 0), "e": (50, 0, 0)}
    for name, colour in colours.items():
        make_image(f"{name}.png", colour)
        (tmp_path / f"{name}.txt").write_text(f"picture {name}")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "d.jpg").write_text("no image")
    source = open_source(tmp_path)
    assert len(source) == 5
    usable, pixels = load_pixels(source, 4)
    assert usable.ids == ["a.png", "c.png", "e.png"]
    assert usable.captions == [("picture a",), ("picture c",), ("picture e",)]
    assert pixels.shape == (3, 3, 4, 4)
    assert pixels[:, 0, 0, 0].tolist() == [10, 30, 50]
    assert [usable.load(row).getpixel((0, 0)) for row in range(3)] == list(colours.values())
    assert [row.id for row in usable.skipped] == ["b.png", "d.jpg"]
    assert "b.png is not an image" in usable.skipped[0].reason
    assert source.skipped == []


def test_rows_skipped_before_stay_listed(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("cat/1.png")
    (tmp_path / "cat" / "2.png").write_bytes(b"")
    (tmp_path / "dog").mkdir()
    usable, _ = load_pixels(open_source(tmp_path), 4)
    assert [row.id for row in usable.skipped] == ["dog", "cat/2.png"]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 2 images .*1\.png is not an image"):
        load_pixels(open_source(tmp_path), 4)
