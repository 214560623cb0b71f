"""The images that a person names to have something done with each: files, directories, and other data sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from opsin.images.opening import StoredImage
from opsin.sources.archives import is_archive
from opsin.sources.listing import list_images
from opsin.sources.opening import open_source
from opsin.sources.parquet_files import find_parquet
from opsin.sources.tables import TABLE_SUFFIXES


def list_inputs(refs: Iterable[str | Path], exclude: Sequence[str] = ()) -> list[Path | StoredImage]:
    """Image files, all images in directories, and all images of other sources, in this order.

    `exclude` are patterns; see `opsin.sources.exclusion`. Raises what `list_images` and `open_source` raise.
    """
    found: list[Path | StoredImage] = []
    for are_sources, group in groupby(map(str, refs), _is_source):
        if not are_sources:
            found += list_images(group, exclude)
            continue
        for ref in group:
            source = open_source(ref, labels=False, exclude=exclude)
            found += [StoredImage(f"{ref}/{id}", partial(source.load, row)) for row, id in enumerate(source.ids)]
    return found


def _is_source(ref: str) -> bool:
    """Whether this is no image file and no directory of image files."""
    path = Path(ref)
    if path.is_dir():
        return bool(find_parquet(path))
    if path.exists():
        return path.suffix.lower() in (".parquet", *TABLE_SUFFIXES) or is_archive(path)
    return ref in ("emoji", "cifar10") or ref.startswith(("cifar10:", "coco:"))
