"""Features of a source: computed once, and never those of other images or other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.data.sources import open_source
from opsin.encoders.features import image_features, source_features
from opsin.encoders.open_clip import wrap
from opsin.errors import DataError

from .test_encoders import CPU, pictures, small_clip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "images"
    directory.mkdir()
    for index, picture in enumerate(pictures(5)):
        picture.save(directory / f"{index}.png")
    (directory / "1b.png").write_bytes(b"no image")
    return directory


def cached(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache" / "features").glob("*.npy"))


def test_features_of_a_source(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    source, features = source_features(open_source(folder), encoder, quiet=True)
    assert list(source.ids) == [f"{index}.png" for index in range(5)]
    assert [row.id for row in source.skipped] == ["1b.png"]
    assert (features.shape, features.dtype) == ((5, 16, 64), np.float16)
    expected, grid = image_features(encoder, [source.load(row) for row in range(5)])
    assert grid == (4, 4)
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-3)


def test_features_are_computed_once(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    first = source_features(open_source(folder), encoder, quiet=True)[1]
    (path,) = cached(folder)
    written = path.stat().st_mtime_ns
    encoder.network.forward_intermediates = None  # whoever encodes again now fails
    second = source_features(open_source(folder), encoder, quiet=True)[1]
    np.testing.assert_array_equal(first, second)
    assert [found.stat().st_mtime_ns for found in cached(folder)] == [written]


def test_another_picture_or_other_weights_give_other_features(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    first = np.array(source_features(open_source(folder), encoder, quiet=True)[1])
    Image.new("RGB", (32, 32), "red").save(folder / "2.png")
    second = np.array(source_features(open_source(folder), encoder, quiet=True)[1])
    same = [bool((first[row] == second[row]).all()) for row in range(5)]
    assert same == [True, True, False, True, True]
    with torch.no_grad():
        encoder.network.conv1.weight.mul_(2)
    assert not np.array_equal(source_features(open_source(folder), encoder, quiet=True)[1], second)
    assert len(cached(folder)) == 3


def test_encoder_without_patches_gives_one_vector_an_image(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(patches=False), CPU)
    assert source_features(open_source(folder), encoder, quiet=True)[1].shape == (5, 24)


def test_interrupted_encoding_leaves_nothing(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    encoder.network.forward_intermediates = None
    with pytest.raises(TypeError):
        source_features(open_source(folder), encoder, quiet=True)
    assert cached(folder) == []


def test_source_without_readable_image_is_refused(folder: Path) -> None:
    source = open_source(folder)
    broken = source.select(np.array([name == "1b.png" for name in source.ids]))
    with pytest.raises(DataError, match="none of the 1 images"):
        source_features(broken, wrap("open_clip:x/y", small_clip(), CPU), quiet=True)
