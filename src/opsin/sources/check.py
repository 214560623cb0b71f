"""A look at a whole source: how many images, of which classes, and which of them are broken or occur twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from opsin.counts import number_of
from opsin.images.opening import Skipped
from opsin.progress import Progress
from opsin.results import Table
from opsin.sources.image_source import SPLITS, UNLABELLED, ImageSource, map_readable

GROUPS_SHOWN = 20
"""Groups of identical images that people see."""


@dataclass(frozen=True)
class SourceReport:
    """What `opsin data check` says. Counts are of readable images."""

    name: str
    count: int
    classes: dict[str, int]
    without_label: int
    """Images without a label, where the source has labels at all; else 0."""
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
    used_bits: dict[int, int]
    """How many 16-bit images use only the range of 10, 12 or 14 bits, by that number; they are scaled by that range."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What is broken or left out."""
        return self.broken

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """The counts, and below them some of the groups of identical images."""
        rows: list[tuple[str, object]] = [("images", self.count)]
        rows += [(f"split {name}", count) for name, count in self.splits.items()]
        rows += [("classes", len(self.classes))] if self.classes else []
        rows += [(f"  {name}", count) for name, count in self.classes.items()]
        rows += [("images without label", self.without_label)] if self.without_label else []
        rows += [("captions", self.captions), ("images without caption", self.without_caption)] if self.captions else []
        rows += [("smallest", "{} x {}".format(*self.smallest)), ("largest", "{} x {}".format(*self.largest))]
        rows += [(f"of {bits} bits in 16 bits", count) for bits, count in self.used_bits.items()]
        rows += [
            ("broken or left out", len(self.broken)),
            ("groups of identical images", len(self.duplicates)),
        ]
        identical = [f"identical {' = '.join(ids)}" for ids in self.duplicates[:GROUPS_SHOWN]]
        if more := len(self.duplicates) - len(identical):
            identical.append(f"identical … and {number_of(more, 'more group')}; --json lists them all")
        return [Table((self.name, ""), [(name, str(value)) for name, value in rows], remark="\n".join(identical))]


def check_source(source: ImageSource, *, progress: Progress | None = None) -> SourceReport:
    """Decode every image once. DataError when not a single one can be read."""

    good, facts = map_readable(source, source.examine, progress=progress)
    sizes = sorted((image.size for image in facts), key=lambda size: (size[0] * size[1], size))
    bits = Counter(image.used_bits for image in facts if image.used_bits is not None)
    return SourceReport(
        name=source.name,
        count=len(good),
        classes=_class_counts(good),
        without_label=_count_unlabelled(good),
        splits=_split_counts(good),
        captions=sum(map(len, good.captions or [])),
        without_caption=sum(not texts for texts in good.captions or []),
        smallest=sizes[0],
        largest=sizes[-1],
        broken=tuple(good.skipped),
        duplicates=_duplicates(good.ids, [image.digest for image in facts]),
        used_bits=dict(sorted(bits.items())),
    )


def _class_counts(source: ImageSource) -> dict[str, int]:
    if source.class_names is None:
        return {}
    if source.labels is not None:
        labels = source.labels[source.labels != UNLABELLED]
    else:
        labels = np.array([label for of_image in source.label_sets or () for label in of_image], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(source.class_names))
    return {name: int(count) for name, count in zip(source.class_names, counts, strict=True)}


def _count_unlabelled(source: ImageSource) -> int:
    if source.labels is not None:
        return int((source.labels == UNLABELLED).sum())
    return sum(not labels for labels in source.label_sets or ())


def _split_counts(source: ImageSource) -> dict[str, int]:
    if source.splits is None:
        return {}
    return {name: int((source.splits == name).sum()) for name in SPLITS if (source.splits == name).any()}


def _duplicates(ids: Sequence[str], digests: Sequence[bytes]) -> tuple[tuple[str, ...], ...]:
    same: dict[bytes, list[str]] = {}
    for name, digest in zip(ids, digests, strict=True):
        same.setdefault(digest, []).append(name)
    return tuple(tuple(names) for names in same.values() if len(names) > 1)
