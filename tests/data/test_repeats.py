"""Copies of training images among the others, in files, in parquet and as pixels."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsin.data.repeats import find_near_duplicates, find_overlap, find_repeats, warn_of_repeats
from opsin.data.splits import SplitSource
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source


def picture(seed: int, size: int = 40) -> Image.Image:
    """Smooth patterns, of which no two look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training images of one class, two to validate on: one new, one a copy under another name."""
    for split in ("train", "val"):
        (tmp_path / "images" / split / "thing").mkdir(parents=True)
    train, val = (tmp_path / "images" / split / "thing" for split in ("train", "val"))
    for seed in range(6):
        picture(seed).save(train / f"{seed}.png")
    picture(7).save(val / "new.png")
    shutil.copy(train / "4.png", val / "copy.png")
    (val / "broken.png").write_bytes(b"no image")
    (train / "broken.png").write_bytes(b"not image")
    return tmp_path / "images"


def splits(ref: Path) -> tuple[ImageSource, ImageSource]:
    source = open_source(str(ref))
    return source.split("val"), source.split("train")


def test_copies_of_files_are_found(folder: Path) -> None:
    (repeat,) = find_repeats(*splits(folder))
    assert (repeat.id, repeat.training_id) == ("val/thing/copy.png", "train/thing/4.png")


def test_only_files_of_equal_size_are_read(folder: Path) -> None:
    """A file that cannot be opened equals nothing, and one whose size is unique is never opened."""
    val, train = splits(folder)
    (folder / "train" / "thing" / "4.png").unlink()
    assert find_repeats(val, train) == ()


def test_copies_in_parquet_are_found(folder: Path) -> None:
    data = folder.parent / "tables"
    data.mkdir()
    for split in ("train", "val"):
        files = sorted((folder / split / "thing").glob("*.png"))
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        pq.write_table(pa.table({"image": images, "label": ["thing"] * len(files)}), data / f"{split}.parquet")
    (repeat,) = find_repeats(*splits(data))
    assert repeat.id.startswith("val/") and repeat.training_id.startswith("train/")


def test_pixels_are_compared_where_there_are_no_files(folder: Path) -> None:
    val, train = splits(folder)
    emoji = open_source("emoji")
    assert len(find_repeats(emoji.select(np.array([5, 9])), emoji.select(np.array([9, 30, 31])))) == 1
    assert find_repeats(val, emoji.select(np.array([5, 9]))) == ()


def test_near_duplicates_are_other_sizes_formats_and_qualities(folder: Path) -> None:
    val = folder / "val" / "thing"
    picture(2).resize((90, 90), Image.Resampling.LANCZOS).save(val / "larger.webp")
    picture(3, 96).save(val / "worse.jpg", quality=70)
    assert len(find_repeats(*splits(folder))) == 1
    found = {repeat.id: repeat.training_id for repeat in find_near_duplicates(*splits(folder))}
    assert found == {
        "val/thing/copy.png": "train/thing/4.png",
        "val/thing/larger.webp": "train/thing/2.png",
        "val/thing/worse.jpg": "train/thing/3.png",
    }


def test_a_warning_names_number_and_example(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source(str(folder))
    rows = {name: np.flatnonzero(source.splits == name) for name in ("train", "val", "test")}
    with caplog.at_level(logging.WARNING):
        warn_of_repeats(SplitSource(source, rows))
    (record,) = caplog.records
    assert "1 of the 3 images of the split 'val' are training images as well" in record.message
    assert "val/thing/copy.png is train/thing/4.png" in record.message
    overlap = find_overlap(*splits(folder), "val", near=True)
    assert len(overlap.warnings) == 2 and "look like training images" in overlap.warnings[1]
    assert overlap.document()["training_repeats"] == [{"id": "val/thing/copy.png", "training_id": "train/thing/4.png"}]
