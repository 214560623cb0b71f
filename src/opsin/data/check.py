"""A look at a whole source: how many images, of which classes, and which of them are broken or occur twice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from opsin.data.images import Skipped
from opsin.data.pixels import map_rows
from opsin.data.sources import SPLITS, ImageSource
from opsin.errors import DataError


@dataclass(frozen=True)
class SourceReport:
    """What `opsin data check` says. Counts are of readable images."""

    name: str
    count: int
    classes: dict[str, int]
    splits: dict[str, int]
    captions: int
    """Captions in all."""
    without_caption: int
    """Images without any caption, where the source has captions at all; else 0."""
    smallest: tuple[int, int]
    largest: tuple[int, int]
    """Width and height of the images with the fewest and the most pixels."""
    broken: tuple[Skipped, ...]
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of images with identical pixels, by id."""


def check_source(source: ImageSource, *, quiet: bool = False) -> SourceReport:
    """Decode every image once, with progress on stderr unless `quiet`. DataError when not a single one can be read."""

    def look(index: int) -> tuple[tuple[int, int], bytes] | str:
        try:
            image = source.load(index)
        except DataError as error:
            return str(error)
        return image.size, hashlib.sha256(image.tobytes() + repr(image.size).encode()).digest()

    looks = map_rows(look, len(source))
    findings = list(tqdm(looks, desc=source.name, total=len(source), unit=" images", disable=quiet))
    problems = [Skipped(source.ids[row], found) for row, found in enumerate(findings) if isinstance(found, str)]
    readable = {row: found for row, found in enumerate(findings) if not isinstance(found, str)}
    if not readable:
        raise DataError(
            f"none of the {len(source)} images of {source.name!r} can be read; the first: {problems[0].reason}"
        )
    good = source.select(np.array(sorted(readable)))
    sizes = sorted((size for size, _ in readable.values()), key=lambda size: (size[0] * size[1], size))
    return SourceReport(
        name=source.name,
        count=len(good),
        classes=_class_counts(good),
        splits=_split_counts(good),
        captions=sum(map(len, good.captions or [])),
        without_caption=sum(not texts for texts in good.captions or []),
        smallest=sizes[0],
        largest=sizes[-1],
        broken=tuple([*source.skipped, *problems]),
        duplicates=_duplicates(source, {row: digest for row, (_, digest) in readable.items()}),
    )


def _class_counts(source: ImageSource) -> dict[str, int]:
    if source.labels is None or source.class_names is None:
        return {}
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    return {name: int(count) for name, count in zip(source.class_names, counts, strict=True)}


def _split_counts(source: ImageSource) -> dict[str, int]:
    if source.splits is None:
        return {}
    return {name: int((source.splits == name).sum()) for name in SPLITS if (source.splits == name).any()}


def _duplicates(source: ImageSource, digests: dict[int, bytes]) -> tuple[tuple[str, ...], ...]:
    same: dict[bytes, list[str]] = {}
    for row, digest in sorted(digests.items()):
        same.setdefault(digest, []).append(source.ids[row])
    return tuple(tuple(ids) for ids in same.values() if len(ids) > 1)
