"""Images that were trained on and stand among those to evaluate on as well: the scores of these say nothing."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from opsin.data.splits import EvaluationImages, SplitSource
from opsin.errors import DataError
from opsin.images.decoding import map_rows
from opsin.names import printable
from opsin.runtime import is_first_process
from opsin.sources.image_source import ImageSource

logger = logging.getLogger(__name__)

THUMBNAIL = 16
NEAR = 5 / 255
"""Root mean square difference of thumbnails, in units of the range of pixels, up to which images are near-duplicates:
of one image in other sizes, formats and qualities it is below, of two images nearly always far above."""
ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Repeat:
    """An evaluated image and the training image that it equals, by id."""

    id: str
    training_id: str


@dataclass(frozen=True)
class Overlap:
    """What `count` images of a split have in common with the training images; `near_duplicates`, where these were
    looked for, has the images of `repeats` too."""

    split: str
    count: int
    repeats: tuple[Repeat, ...]
    near_duplicates: tuple[Repeat, ...] | None = None

    @property
    def warnings(self) -> list[str]:
        """A sentence on the repeats and one on the near-duplicates, where there are any."""
        found = {"are training images as well": self.repeats, "look like training images": self.near_duplicates or ()}
        return [self._warning(same, repeats) for same, repeats in found.items() if repeats]

    def _warning(self, same: str, repeats: Sequence[Repeat]) -> str:
        names = f"{printable(repeats[0].id)} is {printable(repeats[0].training_id)}"
        return (
            f"{len(repeats):,} of the {self.count:,} images of the split {self.split!r} {same}, for example {names}: "
            "what is scored on them is no score of new images; remove them from one of the two sets"
        )

    def document(self) -> dict[str, Any]:
        """The repeats as JSON types."""
        document = {"training_repeats": [asdict(repeat) for repeat in self.repeats]}
        if self.near_duplicates is not None:
            document["near_duplicates"] = [asdict(repeat) for repeat in self.near_duplicates]
        return document


def find_overlap(images: ImageSource, training: ImageSource, split: str, *, near: bool = False) -> Overlap:
    """What the images of a split have in common with training images; near-duplicates are looked for if `near`."""
    near_duplicates = find_near_duplicates(images, training) if near else None
    return Overlap(split, len(images), find_repeats(images, training), near_duplicates)


def overlap_with_training(images: EvaluationImages, *, near: bool = False) -> Overlap | None:
    """What images to evaluate on have in common with those that the model was trained on; None where these are not
    known, or are what is evaluated."""
    if images.training is None or images.are_trained_on:
        return None
    return find_overlap(images.source, images.training, images.split, near=near)


def warn_of_repeats(run: SplitSource) -> None:
    """Log a warning, once a run, of validation and test images that are training images as well."""
    if not is_first_process():
        return
    for split, images in run.splits.items():
        if split in ("val", "test"):
            for warning in Overlap(split, len(images), find_repeats(images, run.training)).warnings:
                logger.warning("%s", warning)


def find_repeats(images: ImageSource, training: ImageSource) -> tuple[Repeat, ...]:
    """The images that have the same content as a training image, each with the first such one.

    Files are compared by size first and then byte by byte, as SHA-256; where a source holds pixels instead, by these.
    What cannot be read equals nothing.
    """
    sizes, training_sizes = _sizes(images), _sizes(training)
    common = None if sizes is None or training_sizes is None else set(sizes) & set(training_sizes) - {None}
    own, theirs = (_keys(*side, common) for side in ((images, sizes), (training, training_sizes)))
    first: dict[bytes | None, int] = {}
    for row, key in enumerate(theirs):
        first.setdefault(key, row)
    first.pop(None, None)
    return tuple(Repeat(images.ids[row], training.ids[first[key]]) for row, key in enumerate(own) if key in first)


def find_near_duplicates(images: ImageSource, training: ImageSource) -> tuple[Repeat, ...]:
    """The images that look as a training image does, each with the most similar one: the same image in another size,
    format or quality. All images of both sources are decoded; what cannot be read is near nothing."""
    rows, small = thumbnails(images)
    training_rows, training_small = thumbnails(training)
    repeats: list[Repeat] = []
    if len(rows) == 0 or len(training_rows) == 0:
        return ()
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        distances = torch.cdist(small[start : start + ROWS_AT_A_TIME], training_small)
        nearest, places = (distances / small.shape[1] ** 0.5).min(dim=1)
        repeats += [
            Repeat(images.ids[rows[start + place]], training.ids[training_rows[int(places[place])]])
            for place in torch.nonzero(nearest <= NEAR)[:, 0].tolist()
        ]
    return tuple(repeats)


def _sizes(source: ImageSource) -> list[int | None] | None:
    """How many bytes each image takes, None for one that is not there; None for a source that has no stored bytes."""
    sizes: list[int | None] = []
    for row in source.rows.tolist():
        size: int | None = None
        with contextlib.suppress(OSError, DataError):
            content = source.loader(row)
            if not isinstance(content, Path | bytes):
                return None
            size = content.stat().st_size if isinstance(content, Path) else len(content)
        sizes.append(size)
    return sizes


def _keys(
    source: ImageSource, sizes: Sequence[int | None] | None, common: set[int | None] | None
) -> list[bytes | None]:
    """A digest of the content of each image whose size is a `common` one, or of the pixels where there are no sizes to
    compare."""

    def key(row: int) -> bytes | None:
        with contextlib.suppress(OSError, DataError):
            if sizes is None or common is None:
                return source.examine(row).digest
            content = source.loader(int(source.rows[row])) if sizes[row] in common else None
            if isinstance(content, Path | bytes):
                return hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).digest()
        return None

    return list(map_rows(key, len(source)))


def thumbnails(source: ImageSource) -> tuple[np.ndarray, torch.Tensor]:
    """The rows that can be read, and float32 (N, 3 * 16 * 16) in [0, 1]."""

    def thumbnail(row: int) -> np.ndarray | None:
        with contextlib.suppress(DataError):
            image = source.load(row, THUMBNAIL).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            return np.asarray(image, dtype=np.float32).ravel() / 255
        return None

    found = list(map_rows(thumbnail, len(source)))
    rows = np.array([row for row, pixels in enumerate(found) if pixels is not None], dtype=np.int64)
    pixels = [pixels for pixels in found if pixels is not None]
    return rows, torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0, 3 * THUMBNAIL**2)
