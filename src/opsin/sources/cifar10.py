"""CIFAR-10 ("Learning Multiple Layers of Features from Tiny Images", Krizhevsky 2009), in two formats.

`DIR/cifar-10-batches-py` as torchvision keeps it, and `DIR/train.parquet` with `DIR/test.parquet`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opsin.errors import DataError, DataNotFoundError
from opsin.runtime import cache_dir
from opsin.sources.image_source import ImageSource
from opsin.sources.parquet import parquet_source
from opsin.sources.parquet_files import find_parquet
from opsin.sources.pickles import read_pickle

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES_FOLDER = "cifar-10-batches-py"
BATCH_FILES = {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"}


def cifar10_directory() -> Path:
    """Where `opsin data prepare cifar10` puts the data."""
    return cache_dir() / "cifar10"


def cifar10_source(directory: Path | None = None) -> ImageSource:
    """50,000 training and 10,000 test images of 32 x 32 pixels. DataError when the directory does not hold them."""
    where = directory or cifar10_directory()
    name = "cifar10" if directory is None else f"cifar10:{directory}"
    for candidate in (where / BATCHES_FOLDER, where):
        if (candidate / "data_batch_1").is_file():
            return _batches_source(candidate, name)
    files = find_parquet(where) if where.is_dir() else {}
    if "train" in files:
        return parquet_source(files, name, class_names=CLASS_NAMES)
    if directory is None:
        raise DataError(
            "CIFAR-10 is not on this machine; run `opsin data prepare cifar10` (170 MB), "
            "or name a directory that has it: cifar10:DIR"
        )
    raise DataNotFoundError(
        f"there is no CIFAR-10 in {where}; looked for {BATCHES_FOLDER}/data_batch_1 and train.parquet"
    )


def _batches_source(directory: Path, name: str) -> ImageSource:
    pixels, labels, splits, ids = [], [], [], []
    for file, split in BATCH_FILES.items():
        content = _unpickle(directory / file)
        try:
            rows = np.asarray(content[b"data"]).reshape(-1, 3, 32, 32)
            numbers = np.asarray(content[b"labels"], dtype=np.int64)
            are_classes = np.isin(numbers, np.arange(len(CLASS_NAMES))).all()
            if rows.dtype != np.uint8 or numbers.shape != (len(rows),) or not are_classes:
                raise ValueError("pixels or labels do not fit")
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{directory / file} is not a batch of CIFAR-10") from error
        pixels.append(rows)
        labels.append(numbers)
        splits += [split] * len(rows)
        ids += [f"{file}/{row:05d}" for row in range(len(rows))]
    images = np.concatenate(pixels).transpose(0, 2, 3, 1)

    return ImageSource(
        name=name,
        ids=ids,
        loader=partial(_load, images),
        rows=np.arange(len(ids)),
        labels=np.concatenate(labels),
        class_names=CLASS_NAMES,
        splits=np.array(splits),
    )


def _load(images: np.ndarray, row: int) -> Image.Image:
    return Image.fromarray(images[row])


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        content = read_pickle(path.read_bytes(), encoding="bytes")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is missing; CIFAR-10 is incomplete there") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is damaged or no batch of CIFAR-10: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a batch of CIFAR-10")
    return content
