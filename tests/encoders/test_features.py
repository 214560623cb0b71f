"""Features of a source: computed once, and never those of other images or other weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize

from opsin.encoders.base import BATCH_SIZE
from opsin.encoders.features import image_features, source_features, source_vectors, text_vectors
from opsin.encoders.open_clip import OpenClipEncoder, wrap
from opsin.errors import DataError
from opsin.images.opening import ImageLike, open_image
from opsin.runtime import resolve_precision
from opsin.sources.opening import open_source
from tests.search.colours import ColourEncoder, paint_many

from .test_encoders import CPU, pictures, small_clip


class CountingEncoder(OpenClipEncoder):
    """Knows how many images went through its network."""

    def __init__(self) -> None:
        super().__init__("open_clip:x/y", small_clip(), CPU)
        self.images_encoded = 0

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        self.images_encoded += len(images)
        return super()._pooled(images)


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
    source, features = source_features(open_source(folder), encoder)
    assert list(source.ids) == [f"{index}.png" for index in range(5)]
    assert [row.id for row in source.skipped] == ["1b.png"]
    assert (features.shape, features.dtype) == ((5, 16, 64), np.float16)
    expected, grid = image_features(encoder, [source.load(row) for row in range(5)])
    assert grid == (4, 4)
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-3)


def test_features_are_computed_once(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    first = source_features(open_source(folder), encoder)[1]
    (path,) = cached(folder)
    written = path.stat().st_mtime_ns
    encoder.network.forward_intermediates = None  # whoever encodes again now fails
    second = source_features(open_source(folder), encoder)[1]
    np.testing.assert_array_equal(first, second)
    assert [found.stat().st_mtime_ns for found in cached(folder)] == [written]


def test_another_picture_or_other_weights_give_other_features(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    first = np.array(source_features(open_source(folder), encoder)[1])
    Image.new("RGB", (32, 32), "red").save(folder / "2.png")
    second = np.array(source_features(open_source(folder), encoder)[1])
    same = [bool((first[row] == second[row]).all()) for row in range(5)]
    assert same == [True, True, False, True, True]
    with torch.no_grad():
        encoder.network.conv1.weight.mul_(2)
    assert not np.array_equal(source_features(open_source(folder), encoder)[1], second)
    assert len(cached(folder)) == 3


def test_many_batches_stay_in_order(folder: Path) -> None:
    encoder = ColourEncoder()
    colours = paint_many(folder / "many", 2 * BATCH_SIZE + 3)
    source = open_source(folder / "many")
    usable, vectors = source_vectors(source, encoder)
    assert (usable.ids, encoder.images_encoded) == (source.ids, len(colours) + 1)  # and one by which it is known
    expected = encoder.encode_image([Image.new("RGB", (1, 1), colour) for colour in colours])
    torch.testing.assert_close(vectors, expected, rtol=0, atol=0)


def test_vectors_of_a_source_are_encoded_once(folder: Path) -> None:
    """What is encoded again is what has other pixels, other weights, or was prepared in another way."""
    encoder = CountingEncoder()
    source, vectors = source_vectors(open_source(folder), encoder)
    assert list(source.ids) == [f"{index}.png" for index in range(5)]
    assert [row.id for row in source.skipped] == ["1b.png"]
    expected = encoder.encode_image([source.load(row) for row in range(5)])
    torch.testing.assert_close(vectors, expected)

    def encoded() -> int:
        encoder.images_encoded = 0
        source_vectors(open_source(folder), encoder)
        return encoder.images_encoded

    assert encoded() == 0
    source_features(open_source(folder), encoder)  # patches of the same images are something else
    encoder.precision = resolve_precision("auto", CPU)
    assert encoded() == 0
    Image.new("RGB", (32, 32), "red").save(folder / "2.png")
    assert (encoded(), encoded()) == (5, 0)
    with torch.no_grad():
        encoder.network.conv1.weight.mul_(2)
    assert (encoded(), encoded()) == (5, 0)
    encoder.preprocess = Compose([encoder.preprocess, Normalize((0.1,) * 3, (1.0,) * 3)])
    assert (encoded(), encoded()) == (5, 0)
    (folder / "3.png").unlink()
    assert (encoded(), encoded()) == (4, 0)


class DarkeningEncoder(ColourEncoder):
    """Another way to prepare images, which its fingerprint does not tell."""

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> torch.Tensor:
        darker = [Image.eval(open_image(image), lambda value: value // 2) for image in images]
        return super().encode_image(darker, normalize=normalize)


def test_encoders_that_are_no_networks_are_known_by_what_they_make_of_an_image(folder: Path) -> None:
    source = open_source(folder)
    images = [source.load(row) for row in range(len(source)) if source.ids[row] != "1b.png"]
    for encoder in (ColourEncoder(), DarkeningEncoder()):
        vectors = source_vectors(source, encoder)[1]
        torch.testing.assert_close(vectors, encoder.encode_image(images))
    again = ColourEncoder()
    source_vectors(source, again)
    assert again.images_encoded == 1 and len(cached(folder)) == 2


class CountingTexts(ColourEncoder):
    """Knows how many texts it was given."""

    texts_encoded = 0

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> torch.Tensor:
        texts = list(texts)
        self.texts_encoded += len(texts)
        return super().encode_text(texts, normalize=normalize)


def test_vectors_of_texts_are_encoded_once_for_the_same_weights(folder: Path) -> None:
    encoder = CountingTexts()
    expected = ColourEncoder().encode_text(["red", "green"]).numpy()
    for _ in range(2):
        np.testing.assert_array_equal(text_vectors(encoder, "a", ["red", "green"]), expected)
    assert encoder.texts_encoded == 2
    text_vectors(encoder, "b", ["red", "green"])
    text_vectors(encoder, "a", ["green", "red"])
    assert encoder.texts_encoded == 6


def test_damaged_vectors_of_texts_are_encoded_again(folder: Path) -> None:
    expected = text_vectors(CountingTexts(), "a", ["red"])
    (path,) = (folder.parent / "cache" / "texts").glob("*.npy")
    path.write_bytes(b"")
    encoder = CountingTexts()
    for _ in range(2):
        np.testing.assert_array_equal(text_vectors(encoder, "a", ["red"]), expected)
    assert encoder.texts_encoded == 1


def test_vectors_of_texts_that_cannot_be_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder.parent / "cache").write_text("not a directory")
    expected = ColourEncoder().encode_text(["red"]).numpy()
    np.testing.assert_array_equal(text_vectors(ColourEncoder(), "a", ["red"]), expected)
    assert "cannot be kept" in caplog.text


def test_encoder_without_patches_gives_one_vector_an_image(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(patches=False), CPU)
    assert source_features(open_source(folder), encoder)[1].shape == (5, 24)


def test_interrupted_encoding_leaves_nothing(folder: Path) -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    encoder.network.forward_intermediates = None
    with pytest.raises(TypeError):
        source_features(open_source(folder), encoder)
    assert cached(folder) == []


def test_source_without_readable_image_is_refused(folder: Path) -> None:
    source = open_source(folder)
    broken = source.select(np.array([name == "1b.png" for name in source.ids]))
    with pytest.raises(DataError, match="not even the only image"):
        source_features(broken, wrap("open_clip:x/y", small_clip(), CPU))
