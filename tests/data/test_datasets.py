"""Batches from memory and from files: the same, aligned, complete, and undisturbed by broken images."""

from __future__ import annotations

import contextlib
import logging
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import opsin.data.datasets
from opsin.data.datasets import FileDataset, ImageDataset, PixelDataset, batches_of, image_dataset, preprocessing_for
from opsin.errors import DataError
from opsin.images.preprocessing import Preprocessing
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source
from opsin.training.loader import StepSampler, load_batches
from tests.conftest import MakeImage

SIZE = 4
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CLASSES = ("a", "b", "c")


@pytest.fixture
def source(make_image: MakeImage, tmp_path: Path) -> ImageSource:
    """Seven images in three classes; the red of each says which it is: ten times its number."""
    for number in range(7):
        make_image(f"{CLASSES[number % 3]}/{number}.png", (10 * number, 0, 0), size=(6, 9))
    return open_source(tmp_path)


def break_image(source: ImageSource, tmp_path: Path, number: int) -> None:
    """The file of that number stops being an image after the source has been opened."""
    (tmp_path / CLASSES[number % 3] / f"{number}.png").write_bytes(b"no image")


def numbers(batch: dict[str, Tensor]) -> list[int]:
    return [red // 10 for red in batch["image"][:, 0, 0, 0].tolist()]


def assert_aligned(batch: dict[str, Tensor]) -> None:
    """Labels belong to their images: classes are the numbers modulo three, in alphabetical order."""
    assert batch["label"].tolist() == [number % 3 for number in numbers(batch)]


def both(source: ImageSource) -> tuple[ImageDataset, ImageDataset]:
    in_memory = image_dataset(source, SIZE)
    assert isinstance(in_memory, PixelDataset)
    return in_memory, FileDataset(source, SIZE)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_a_run_gets_the_same_batches_on_any_device(source: ImageSource, device: str) -> None:
    """On a GPU they come from pixels that are there."""
    dataset = image_dataset(source, SIZE)
    expected = map(dataset.__getitems__, StepSampler(len(dataset), 3, seed=0))
    with contextlib.closing(load_batches(dataset, StepSampler(7, 3, seed=0), torch.device(device), 0)) as batches:
        for batch, other in islice(zip(batches, expected, strict=False), 5):
            assert batch["image"].device.type == batch["label"].device.type == device
            assert numbers(batch) == numbers(other)
            assert_aligned(batch)


def test_images_moved_to_a_device_are_the_same(source: ImageSource) -> None:
    dataset = image_dataset(source, SIZE)
    assert isinstance(dataset, PixelDataset)
    moved = dataset.to(torch.device("cpu"))
    assert moved is not dataset and len(moved) == 7
    assert numbers(moved.__getitems__([3, 1])) == numbers(dataset.__getitems__([3, 1]))
    assert_aligned(moved.__getitems__([3, 1]))


def test_memory_and_files_give_the_same(source: ImageSource) -> None:
    in_memory, from_files = both(source)
    assert len(in_memory) == len(from_files) == 7
    for indices in ([0], [3, 1, 1, 6], list(range(7))):
        batch, other = in_memory.__getitems__(indices), from_files.__getitems__(indices)
        assert batch["image"].dtype == other["image"].dtype == torch.uint8
        assert batch["label"].dtype == other["label"].dtype == torch.int64
        assert batch["image"].shape == (len(indices), 3, SIZE, SIZE)
        assert torch.equal(batch["image"], other["image"])
        assert torch.equal(batch["label"], other["label"])
        assert_aligned(batch)


def test_without_labels(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    make_image("2.png")
    for dataset in both(open_source(tmp_path)):
        assert set(dataset.__getitems__([1, 0])) == {"image"}


def test_batches_are_copies(source: ImageSource) -> None:
    for dataset in both(source):
        before = dataset.__getitems__([0, 1])["image"].clone()
        dataset.__getitems__([0, 1])["image"].fill_(255)
        assert torch.equal(dataset.__getitems__([0, 1])["image"], before)


def test_large_sources_stay_in_their_files(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 7 * 3 * SIZE * SIZE
    monkeypatch.setattr(opsin.data.datasets, "MEMORY_LIMIT", needed)
    assert isinstance(image_dataset(source, SIZE), PixelDataset)
    monkeypatch.setattr(opsin.data.datasets, "MEMORY_LIMIT", needed - 1)
    dataset = image_dataset(source, SIZE)
    assert isinstance(dataset, FileDataset)
    assert dataset.skipped == source.skipped == []


def test_broken_images_in_memory(source: ImageSource, tmp_path: Path) -> None:
    for number in (0, 4):
        break_image(source, tmp_path, number)
    dataset = image_dataset(source, SIZE)
    assert len(dataset) == 5
    assert sorted(row.id for row in dataset.skipped) == ["a/0.png", "b/4.png"]
    batch = dataset.__getitems__([4, 3, 2, 1, 0])
    assert sorted(numbers(batch)) == [1, 2, 3, 5, 6]
    assert_aligned(batch)


def test_broken_images_in_files(source: ImageSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_image(source, tmp_path, 4)
    dataset = FileDataset(source, SIZE)
    position = source.ids.index("b/4.png")
    order = [6, position, *(index for index in range(6) if index != position)]
    with caplog.at_level(logging.WARNING):
        batch = dataset.__getitems__(order)
        dataset.__getitems__(order)
    assert sorted(numbers(batch)) == [0, 1, 2, 3, 5, 6]
    assert_aligned(batch)
    [row] = dataset.skipped
    assert row.id == "b/4.png"
    [record] = caplog.records  # not one an epoch
    assert record.levelname == "WARNING"
    assert "4.png is not an image" in record.getMessage()


def test_batch_of_broken_images_only(source: ImageSource, tmp_path: Path) -> None:
    break_image(source, tmp_path, 4)
    position = source.ids.index("b/4.png")
    with pytest.raises(DataError, match=r"none of the 2 images of a batch can be read, from b/4\.png on"):
        FileDataset(source, SIZE).__getitems__([position, position])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_worker_processes_find_broken_is_known_here(source: ImageSource, tmp_path: Path, workers: int) -> None:
    break_image(source, tmp_path, 4)
    dataset = FileDataset(source, SIZE)

    def first_batch() -> dict[str, Tensor]:
        with closing(load_batches(dataset, StepSampler(7, 7, seed=0), torch.device("cpu"), workers)) as batches:
            return next(batches)

    assert sorted(numbers(first_batch())) == [0, 1, 2, 3, 5, 6]
    assert [row.id for row in dataset.skipped] == ["b/4.png"]
    for number in range(7):
        break_image(source, tmp_path, number)
    with pytest.raises(DataError, match=r"^none of the 7 images of a batch can be read, from \S+ on$"):
        first_batch()
    assert sorted(row.id for row in dataset.skipped) == sorted(source.ids)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_cover_everything_in_order(source: ImageSource, batch_size: int) -> None:
    for dataset in both(source):
        batches = list(batches_of(dataset, batch_size))
        assert [len(batch["image"]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert sum(len(batch["image"]) for batch in batches) == 7
        whole = dataset.__getitems__(list(range(7)))
        for name in ("image", "label"):
            assert torch.equal(torch.cat([batch[name] for batch in batches]), whole[name])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_go_on_after_broken_images(source: ImageSource, tmp_path: Path, batch_size: int) -> None:
    """The last batch of a size that leaves one over may well have no image that can be read."""
    last = int(source.ids[6].split("/")[1].removesuffix(".png"))
    break_image(source, tmp_path, last)
    batches = list(batches_of(FileDataset(source, SIZE), batch_size))
    for batch in batches:
        assert_aligned(batch)
    assert sorted(sum(map(numbers, batches), [])) == [number for number in range(7) if number != last]


def test_batches_of_nothing_readable(source: ImageSource, tmp_path: Path) -> None:
    for number in range(7):
        break_image(source, tmp_path, number)
    with pytest.raises(DataError, match="not even the only image of a batch can be read"):
        list(batches_of(FileDataset(source, SIZE), 3))


def test_pixels_are_shared_not_copied() -> None:
    pixels = np.zeros((2, 3, SIZE, SIZE), dtype=np.uint8)
    assert np.shares_memory(PixelDataset(pixels, None).pixels.numpy(), pixels)


def test_preprocessing_makes_images_in_memory_zero_on_average(source: ImageSource) -> None:
    in_memory, in_files = both(source)
    preprocessing = preprocessing_for(in_memory, SIZE)
    pixels = in_memory.__getitems__(list(range(len(in_memory))))["image"]
    red = preprocessing.prepare(pixels)[:, 0]
    assert float(red.mean()) == pytest.approx(0, abs=1e-3)
    assert float(red.std(correction=0)) == pytest.approx(1, abs=1e-2)
    for unknown in (in_files, None, PixelDataset(np.zeros((0, 3, SIZE, SIZE), np.uint8), None)):
        assert preprocessing_for(unknown, SIZE) == Preprocessing(image_size=SIZE)
