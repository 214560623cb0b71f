"""Images of which a collection has several: the same picture again, or in another size, quality or crop.

Two images are near-duplicates when their thumbnails of 16 x 16 pixels hardly differ (a perceptual hash that is not
rounded to bits), or when their vectors by the encoder `imagenet` have a high cosine, which crops, mirroring and other
light leave. A group is an image with its near-duplicates, so that whoever keeps that one has all of them: of a series
in which each image is like the next only, more than one is kept.

Dimensions: N images, D width of a vector, T numbers of a thumbnail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from opsin.counts import number_of
from opsin.data.repeats import NEAR, thumbnails
from opsin.encoders.base import ImageEncoder
from opsin.encoders.features import source_vectors
from opsin.images.decoding import map_rows
from opsin.images.opening import ImageFacts, Skipped
from opsin.names import printable
from opsin.progress import Progress, tracked, working
from opsin.results import Table, skipped_document
from opsin.search.collection import FolderCollection, open_collection
from opsin.search.index import ImageIndex, holds_index
from opsin.sources.image_source import Files, ImageSource
from opsin.sources.opening import open_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIKE = 0.85
"""The cosine of two images' vectors from which on they are near-duplicates.

Measured on 2026-12-01 with `imagenet` on 286 photographs: of two of them at most 0.74; of a photograph and its mirror
image at least 0.85 for all, its crop to 0.9 of each side for all, to 0.8 for 89 %, 1.3 times as bright for 98 %."""
ROWS_AT_A_TIME = 512
SHOWN_GROUPS, SHOWN_IMAGES = 12, 6
"""In the figure."""


@dataclass(frozen=True)
class DuplicateGroup:
    """An image and its near-duplicates, none of which has more pixels."""

    ids: tuple[str, ...]
    facts: tuple[ImageFacts, ...]

    @property
    def kind(self) -> str:
        """`exact` when all have the same pixels, else `near`."""
        return "exact" if len({own.digest for own in self.facts}) == 1 else "near"


@dataclass(frozen=True)
class Duplicates:
    """The groups of a collection of `count` images, the largest first."""

    source: ImageSource
    groups: tuple[DuplicateGroup, ...]

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that were left out."""
        return self.source.skipped

    @property
    def paths(self) -> list[str]:
        """All but the first image of each group: what one could do without."""
        return [self._path(id) for group in self.groups for id in group.ids[1:]]

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        groups = [
            {
                "kind": group.kind,
                "images": [
                    {
                        "id": printable(id),
                        "path": printable(self._path(id)),
                        "width": own.size[0],
                        "height": own.size[1],
                    }
                    for id, own in zip(group.ids, group.facts, strict=True)
                ],
            }
            for group in self.groups
        ]
        return {"images": len(self.source), "groups": groups, "skipped": skipped_document(self.skipped)}

    def tables(self) -> list[Table]:
        """A row for each image of a group."""
        rows = [
            (number, group.kind, printable(self._path(id)), f"{own.size[0]} x {own.size[1]}")
            for number, group in enumerate(self.groups, 1)
            for id, own in zip(group.ids, group.facts, strict=True)
        ]
        surplus = sum(len(group.ids) - 1 for group in self.groups)
        remark = f"{number_of(len(self.source), 'image')}, of which {surplus} could go, one of each group kept"
        return [Table(("group", "kind", "image", "pixels"), rows, remark=remark)]

    def figure(self) -> Figure | None:
        """The first groups, a row each; None without any."""
        from matplotlib.figure import Figure

        from opsin.pictures import TITLE_SIZE, TITLE_WIDTH, cut, reduced

        shown = self.groups[:SHOWN_GROUPS]
        if not shown:
            return None
        columns = min(SHOWN_IMAGES, max(len(group.ids) for group in shown))
        figure = Figure(figsize=(2.1 * columns, 2.5 * len(shown)), layout="constrained", dpi=110)
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes_row, group in zip(grid, shown, strict=True):
            for axes, id, own in zip(axes_row, group.ids, group.facts, strict=False):
                axes.imshow(reduced(self.source.load(self._places[id], 256)))
                title = f"{cut(printable(Path(id).name), TITLE_WIDTH)}\n{group.kind}, {own.size[0]} x {own.size[1]}"
                axes.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
        return figure

    @cached_property
    def _places(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.source.ids)}

    def _path(self, id: str) -> str:
        """The file of an image as people can use it; the id where it is no file."""
        path = self.source.file(self._places[id])
        return id if path is None else str(path)


def find_duplicates(
    ref: str | Path,
    encoder: ImageEncoder,
    *,
    exclude: Sequence[str] = (),
    alike: float = ALIKE,
    progress: Progress | None = None,
) -> Duplicates:
    """The duplicates among the images of a folder at any depth, of another data source, or of an index's source.

    Args:
        ref: A folder, another source (see `opsin.sources.opening.open_source`), or the directory of an index.
        encoder: Whose vectors are compared; they come from the cache.
        exclude: Patterns of images to leave out; see `opsin.sources.exclusion`.
        alike: The cosine from which on two images are near-duplicates; `ALIKE` is for `imagenet`.
        progress: Is told of the images read and compared, and can stop.

    Raises:
        DataError: There are no such images, or none can be read.
        Cancelled: When `progress` says so.
    """
    usable, vectors = source_vectors(_source_of(ref, exclude), encoder, progress=progress)
    facts = list(tracked(map_rows(usable.examine, len(usable)), progress, "measuring", len(usable)))
    rows, small = thumbnails(usable)
    looks = torch.full((len(usable), small.shape[1]), torch.nan)  # near nothing, where one cannot be had
    looks[torch.from_numpy(rows)] = small
    order = np.array(sorted(range(len(usable)), key=lambda row: (-math.prod(facts[row].size), usable.ids[row])))
    kept = kept_images(vectors[order], looks[order], alike, progress=progress)
    members: dict[int, list[int]] = {}
    for row, first in zip(order.tolist(), order[kept].tolist(), strict=True):
        members.setdefault(first, []).append(row)
    groups = [
        DuplicateGroup(tuple(usable.ids[row] for row in own), tuple(facts[row] for row in own))
        for own in members.values()
        if len(own) > 1
    ]
    groups.sort(key=lambda group: (-len(group.ids), group.ids))
    return Duplicates(usable, tuple(groups))


def kept_images(vectors: Tensor, looks: Tensor, alike: float, *, progress: Progress | None = None) -> np.ndarray:
    """For each image, int64 (N,), the first one that is kept and near to it; for one that is kept, itself.

    An image is kept unless it is near to one that is kept and comes before it: its vector float32 (N, D), of length
    one, has a cosine of `alike` or more, or its thumbnail float32 (N, T) in [0, 1] hardly differs. A block of images is
    compared with all that come after it, so that memory is bounded.
    """
    kept = np.full(len(vectors), -1, dtype=np.int64)
    norms = looks.square().sum(dim=1)
    with working(progress, "comparing", len(vectors)) as advance:
        for start in range(0, len(vectors), ROWS_AT_A_TIME):
            end = min(start + ROWS_AT_A_TIME, len(vectors))
            is_near = vectors[start:end] @ vectors[start:].T >= alike
            distances = norms[start:end, None] + norms[None, start:] - 2 * looks[start:end] @ looks[start:].T
            is_near |= distances <= looks.shape[1] * NEAR**2
            for row in range(start, end):
                if kept[row] < 0:
                    kept[row] = row
                    near = start + is_near[row - start].nonzero()[:, 0].numpy()
                    kept[near[kept[near] < 0]] = row
            advance(end - start)
    return kept


def _source_of(ref: str | Path, exclude: Sequence[str]) -> ImageSource:
    """The images of a folder, at any depth, of another source, or of an index's."""
    if holds_index(Path(ref)):
        index = ImageIndex.open(ref)
        ref, exclude = index.source, [*index.exclude, *exclude]
    collection = open_collection(ref, exclude)
    if not isinstance(collection, FolderCollection):
        return open_source(ref, labels=False, exclude=exclude)
    ids = [entry.id for entry in collection.entries]
    return ImageSource(
        name=collection.ref,
        ids=ids,
        rows=np.arange(len(ids)),
        loader=Files([collection.root / id for id in ids]),
        skipped=list(collection.skipped),
    )
