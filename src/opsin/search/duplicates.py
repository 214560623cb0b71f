"""Images of which a collection has several: the same file again, or the same picture in another size, quality or crop.

Two images are near-duplicates when their thumbnails of 16 x 16 pixels hardly differ (a perceptual hash that is not
rounded to bits), or when their vectors by the encoder `imagenet` have a high cosine, which crops, mirroring and other
light leave. Groups are what such pairs connect.

Dimensions: N images, D width of a vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from opsin.counts import number_of
from opsin.data.repeats import NEAR, content_keys, stored_sizes, thumbnails
from opsin.encoders.base import ImageEncoder
from opsin.encoders.features import source_vectors
from opsin.images.opening import ImageFacts, Skipped
from opsin.names import printable
from opsin.progress import Progress, working
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
    """Images that are one picture, the one with the most pixels first; `exact` when all have the same content."""

    ids: tuple[str, ...]
    facts: tuple[ImageFacts, ...]
    exact: bool

    @property
    def kind(self) -> str:
        """In a word."""
        return "exact" if self.exact else "near"


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
        places = {id: row for row, id in enumerate(self.source.ids)}
        for axes_row, group in zip(grid, shown, strict=True):
            for axes, id, own in zip(axes_row, group.ids, group.facts, strict=False):
                axes.imshow(reduced(self.source.load(places[id], 256)))
                title = f"{cut(printable(Path(id).name), TITLE_WIDTH)}\n{group.kind}, {own.size[0]} x {own.size[1]}"
                axes.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
        return figure

    def _path(self, id: str) -> str:
        """The file of an image as people can use it; the id where it is no file."""
        path = self.source.file(self.source.ids.index(id))
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
        exclude: Patterns of images to leave out; see `opsin.sources.listing`.
        alike: The cosine from which on two images are near-duplicates; `ALIKE` is for `imagenet`.
        progress: Is told of the images read and compared, and can stop.

    Raises:
        DataError: There are no such images, or none can be read.
        Cancelled: When `progress` says so.
    """
    usable, vectors = source_vectors(_source_of(ref, exclude), encoder, progress=progress)
    sizes = stored_sizes(usable)
    common = None if sizes is None else {size for size, count in Counter(sizes).items() if count > 1}
    keys = content_keys(usable, sizes, common)
    parents = list(range(len(usable)))
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            _join(parents, row, first.setdefault(key, row))
    rows, small = thumbnails(usable)
    for one, other in _near_pairs(vectors, alike, rows, small, progress):
        _join(parents, one, other)
    members: dict[int, list[int]] = {}
    for row in range(len(usable)):
        members.setdefault(_root(parents, row), []).append(row)
    groups = [_group(usable, own, keys) for own in members.values() if len(own) > 1]
    groups.sort(key=lambda group: (-len(group.ids), group.ids))
    return Duplicates(usable, tuple(groups))


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


def _near_pairs(
    vectors: Tensor, alike: float, rows: np.ndarray, small: Tensor, progress: Progress | None
) -> Iterator[tuple[int, int]]:
    """Rows of two images each whose vectors float32 (N, D), of length one, or whose thumbnails are nearly the same.

    A block of images is compared with all that come after it, so that memory is bounded.
    """
    norms = small.square().sum(dim=1)
    with working(progress, "comparing", len(vectors)) as advance:
        for start in range(0, len(vectors), ROWS_AT_A_TIME):
            end = min(start + ROWS_AT_A_TIME, len(vectors))
            is_near = vectors[start:end] @ vectors[start:].T >= alike
            yield from ((start + int(one), start + int(other)) for one, other in is_near.triu(1).nonzero())
            distances = norms[start:end, None] + norms[None, start:] - 2 * small[start:end] @ small[start:].T
            is_same = distances <= small.shape[1] * NEAR**2
            pairs = is_same.triu(1).nonzero() + start
            yield from ((int(rows[one]), int(rows[other])) for one, other in pairs)
            advance(end - start)


def _group(source: ImageSource, rows: list[int], keys: Sequence[bytes | None]) -> DuplicateGroup:
    facts = {row: source.examine(row) for row in rows}
    rows = sorted(rows, key=lambda row: (-facts[row].size[0] * facts[row].size[1], source.ids[row]))
    exact = keys[rows[0]] is not None and len({keys[row] for row in rows}) == 1
    return DuplicateGroup(tuple(source.ids[row] for row in rows), tuple(facts[row] for row in rows), exact)


def _root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


def _join(parents: list[int], one: int, other: int) -> None:
    parents[max(_root(parents, one), _root(parents, other))] = min(_root(parents, one), _root(parents, other))
