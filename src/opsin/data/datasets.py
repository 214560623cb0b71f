"""Batches of images and labels: from memory when a source fits, else read from its files as needed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from opsin.counts import none_of
from opsin.data.pixels import fit_image, load_pixels
from opsin.data.splits import SplitSource
from opsin.errors import DataError
from opsin.images.opening import Skipped
from opsin.images.preprocessing import Preprocessing, channel_statistics
from opsin.sources.image_source import ImageSource

logger = logging.getLogger(__name__)
MEMORY_LIMIT = 4 * 2**30


class ImageDataset(Protocol):
    """Batches {"image": uint8 (N, 3, S, S), "label": int64 (N,)}, without "label" when the source has none."""

    skipped: list[Skipped]

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]: ...


def image_dataset(source: ImageSource, size: int) -> ImageDataset:
    """The images of a source, resized and cropped to `size`; in memory when they take less than 4 GiB there."""
    if len(source) * 3 * size * size > MEMORY_LIMIT:
        return FileDataset(source, size)
    usable, pixels = load_pixels(source, size)
    return PixelDataset(pixels, usable.labels, usable.skipped)


class PixelDataset:
    """Images in memory."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray | None, skipped: list[Skipped] | None = None) -> None:
        """`pixels` uint8 (N, 3, S, S), `labels` int64 (N,) or None."""
        self.pixels = torch.from_numpy(pixels)
        self.labels = None if labels is None else torch.from_numpy(labels)
        self.skipped = list(skipped or [])

    def to(self, device: torch.device) -> PixelDataset:
        """The same images on a device, on which its batches then are, too."""
        moved = copy.copy(self)
        moved.pixels = self.pixels.to(device)
        moved.labels = None if self.labels is None else self.labels.to(device)
        return moved

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        rows = torch.tensor(indices)
        batch = {"image": self.pixels[rows]}
        if self.labels is not None:
            batch["label"] = self.labels[rows]
        return batch


class FileDataset:
    """Images read when their batch is asked for; broken ones are left out of it, logged, and listed in `skipped`.

    What a worker process of a DataLoader finds broken is listed in that process; `opsin.training.loader` adds it here.
    """

    def __init__(self, source: ImageSource, size: int) -> None:
        self.source = source
        self.size = size
        self.skipped = list(source.skipped)
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        rows, pixels = [], []
        for index in indices:
            try:
                pixels.append(fit_image(self.source.load(index, self.size), self.size))
                rows.append(index)
            except DataError as error:
                self._skip(index, str(error))
        if not rows:
            raise DataError(
                f"{none_of(len(indices), 'image')} of a batch can be read, from {self.source.ids[indices[0]]} on"
            )
        batch = {"image": torch.from_numpy(np.stack(pixels))}
        if self.source.labels is not None:
            batch["label"] = torch.from_numpy(self.source.labels[rows])
        return batch

    def _skip(self, index: int, reason: str) -> None:
        if index not in self._broken:  # every epoch comes across it again
            self._broken.add(index)
            self.skipped.append(Skipped(self.source.ids[index], reason))
            logger.warning("left out: %s", reason)


class Subset:
    """Some rows of another dataset."""

    def __init__(self, dataset: ImageDataset, rows: Sequence[int]) -> None:
        self.dataset = dataset
        self.rows = rows
        self.skipped = dataset.skipped

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self.dataset.__getitems__([int(self.rows[index]) for index in indices])


def numbered(source: ImageSource) -> ImageSource:
    """The source with each image's row as its label, which stays with it where images that cannot be read are left
    out."""
    return replace(source, labels=np.arange(len(source)), class_names=None)


def numbered_dataset(source: ImageSource, size: int) -> ImageDataset:
    """`image_dataset` with each image's row in `source` as its "label"."""
    return image_dataset(numbered(source), size)


DatasetT = TypeVar("DatasetT", bound=ImageDataset)


@dataclass(frozen=True, kw_only=True)
class Splits(Generic[DatasetT]):
    """The datasets of a run by the names of their splits. `train` is always there."""

    datasets: Mapping[str, DatasetT]
    source: SplitSource | None = None
    """What they were made of; None for features instead of images."""
    needs: str | None = None
    """Reference of another model, without whose weights one that is trained on these data cannot be used."""

    @property
    def train(self) -> DatasetT:
        """The training set."""
        return self.datasets["train"]

    @property
    def val(self) -> DatasetT | None:
        """The validation set, where there is one."""
        return self.datasets.get("val")

    @property
    def source_digest(self) -> str | None:
        """See `opsin.data.splits.split_digest`."""
        return None if self.source is None else self.source.digest

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of any split that were left out, each once."""
        return tuple(dict.fromkeys(row for dataset in self.datasets.values() for row in dataset.skipped))

    @property
    def takes_images(self) -> bool:
        """Whether a model that is trained on these data takes images."""
        return True

    @property
    def is_labelled(self) -> bool:
        """Whether a model that is trained on these data can be evaluated by their labels, if it takes any."""
        return True


def pick_one(items: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """One of the first `counts` (N,) of the items (N, C, ...) of each row, (N, ...), all equally likely.

    The choice is the generator's, wherever the items are.
    """
    draws = torch.rand(len(items), generator=generator, device=generator.device).to(items.device)
    chosen = (draws * counts).long().clamp(max=counts - 1)
    return items[torch.arange(len(items), device=items.device), chosen]


def batches_of(dataset: ImageDataset, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """All of a dataset in order, in batches; a batch without any readable image is left out.

    Raises DataError when no batch is left.
    """
    unreadable: DataError | None = None
    some = False
    for start in range(0, len(dataset), batch_size):
        try:
            batch = dataset.__getitems__(list(range(start, min(start + batch_size, len(dataset)))))
        except DataError as error:
            unreadable = error
            continue
        some = True
        yield batch
    if unreadable is not None and not some:
        raise unreadable


def preprocessing_for(dataset: ImageDataset | None, image_size: int) -> Preprocessing:
    """Preprocessing with the mean and deviation of the images where they are in memory, and else with those of
    `Preprocessing`'s defaults."""
    if not isinstance(dataset, PixelDataset) or len(dataset) == 0:
        return Preprocessing(image_size=image_size)
    mean, std = channel_statistics(dataset.pixels.numpy())
    return Preprocessing(image_size=image_size, mean=mean, std=std)
