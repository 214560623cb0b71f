"""The images of a source that have captions to learn from, and captions without images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from opsin.counts import none_of
from opsin.errors import DataError, system_errors_as
from opsin.images.opening import Skipped
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source


def open_captioned(
    ref: str, captions: str = "all", exclude: Sequence[str] = (), is_usable: Callable[[str], object] = bool
) -> ImageSource:
    """The images of a source that have a caption, with `all` of their captions or the `first`; see `with_captions`."""
    source = with_captions(open_source(ref, labels=False, exclude=exclude), is_usable)
    assert source.captions is not None
    return replace(source, captions=[texts[:1] for texts in source.captions]) if captions == "first" else source


def with_captions(source: ImageSource, is_usable: Callable[[str], object] = bool) -> ImageSource:
    """The images that have a caption, which is a text that is not blank and that `is_usable`, and of their captions
    those, without white space around them. The other images go to `skipped`.

    Raises DataError when no image has one.
    """
    if source.captions is None:
        seen = source.seen_instead_of_captions() if source.seen_instead_of_captions else ""
        raise DataError(
            f"the source {source.name!r} has no captions; give them as NAME.txt beside NAME.jpg, in metadata.jsonl, "
            "in captions.csv, in a parquet column `captions`, or as COCO captions with coco:DIR"
            + (f". {seen}" if seen else "")
        )
    stripped = [[text.strip() for text in texts] for texts in source.captions]
    usable = [tuple(text for text in texts if text and is_usable(text)) for texts in stripped]
    has_caption = np.array([bool(texts) for texts in usable], dtype=bool)
    if not has_caption.any():
        first = next(iter(source.skipped), None)
        reason = f"; left out: {first.id} ({first.reason})" if first else ""
        raise DataError(f"{none_of(len(source), 'image')} of {source.name!r} has a caption with a word in it{reason}")
    without = [name for name, texts in zip(source.ids, usable, strict=True) if not texts]
    skipped = [Skipped(name, "has no caption") for name in without]
    return replace(source, captions=usable, skipped=[*source.skipped, *skipped]).select(has_caption)


def read_texts(path: str) -> list[str]:
    """Captions of a file: one a line, or JSON lines with a list `captions`. Raises DataError when it cannot be read or
    has none."""
    with system_errors_as(DataError, f"the texts in {path} cannot be read"):
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    if not path.endswith((".jsonl", ".ndjson")):
        texts = [line.strip() for line in lines if line.strip()]
    else:
        try:
            texts = [str(text) for line in lines if line.strip() for text in json.loads(line)["captions"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} should hold a JSON object with a list `captions` in each line: {error}") from error
    if not texts:
        raise DataError(f"{path} holds no texts")
    return texts
