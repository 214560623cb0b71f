"""Features of labelled images, from the cache of `opsin.encoders.features`.

They are computed about a thousand images at a time: an evaluation that was stopped continues where it was, and another
one finds the whole blocks that it has in common with this one. With the same seed the labelled images of a fraction are
the first ones of a larger fraction; all of them, however, are in the order of seed 0, whatever the seed is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opsin.counts import none_of
from opsin.encoders.base import ImageEncoder, NetworkEncoder
from opsin.encoders.features import source_features, source_vectors
from opsin.errors import DataError
from opsin.progress import Progress
from opsin.sources.image_source import ImageSource, NothingReadable

IMAGES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Encoded:
    """The images of a source that can be read, their features float32 (N, D) and their labels int64 (N,)."""

    source: ImageSource
    features: Tensor
    labels: Tensor


def encode(
    source: ImageSource, encoder: ImageEncoder, *, unit: bool = True, progress: Progress | None = None
) -> Encoded:
    """Features of a labelled source, from the cache; of length one, or as they are, which takes a NetworkEncoder.

    Raises DataError when no image can be read, or when the cache cannot be written.
    """
    features, kept, skipped = [], [], list(source.skipped)
    for start in range(0, len(source), IMAGES_AT_A_TIME):
        rows = np.arange(start, min(start + IMAGES_AT_A_TIME, len(source)))
        piece = replace(source.select(rows), skipped=[])
        try:
            usable, vectors = _vectors(piece, encoder, progress, unit)
        except NothingReadable as error:
            skipped += error.skipped
            continue
        features.append(vectors)
        kept.append(rows[np.isin(piece.ids, usable.ids)])
        skipped += usable.skipped
    if not kept:
        raise DataError(
            f"{none_of(len(source), 'image')} of {source.name!r} can be read; the first: {skipped[0].reason}"
        )
    whole = replace(source.select(np.concatenate(kept)), skipped=skipped)
    assert whole.labels is not None
    return Encoded(whole, torch.cat(features), torch.from_numpy(whole.labels))


def _vectors(
    source: ImageSource, encoder: ImageEncoder, progress: Progress | None, unit: bool
) -> tuple[ImageSource, Tensor]:
    if unit:
        return source_vectors(source, encoder, progress=progress)
    assert isinstance(encoder, NetworkEncoder)
    usable, vectors = source_features(source, encoder, progress=progress)
    return usable, torch.from_numpy(np.array(vectors, dtype=np.float32))
