"""The images of a source that have captions to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from opsin.counts import none_of
from opsin.errors import DataError
from opsin.images.opening import Skipped
from opsin.sources.image_source import ImageSource


def with_captions(source: ImageSource, is_usable: Callable[[str], object]) -> ImageSource:
    """The images that have a usable caption, and of their captions those; the others go to `skipped`.

    Raises DataError when no image has one.
    """
    if source.captions is None:
        seen = source.seen_instead_of_captions() if source.seen_instead_of_captions else ""
        raise DataError(
            f"the source {source.name!r} has no captions; give them as NAME.txt beside NAME.jpg, in metadata.jsonl, "
            "in captions.csv, in a parquet column `captions`, or as COCO captions with coco:DIR"
            + (f". {seen}" if seen else "")
        )
    usable = [tuple(text for text in texts if is_usable(text)) for texts in source.captions]
    has_caption = np.array([bool(texts) for texts in usable], dtype=bool)
    if not has_caption.any():
        first = next(iter(source.skipped), None)
        reason = f"; left out: {first.id} ({first.reason})" if first else ""
        raise DataError(f"{none_of(len(source), 'image')} of {source.name!r} has a caption with a word in it{reason}")
    without = [name for name, texts in zip(source.ids, usable, strict=True) if not texts]
    skipped = [Skipped(name, "has no caption") for name in without]
    return replace(source, captions=usable, skipped=[*source.skipped, *skipped]).select(has_caption)
