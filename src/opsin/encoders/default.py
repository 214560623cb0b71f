"""Which of the models of images and texts that come with opsin suits some images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from opsin.checkpoint import resolve_model
from opsin.data.pixels import fit_image
from opsin.domain import SIDE
from opsin.errors import DataError
from opsin.images.opening import ImageLike
from opsin.pretrained import read_watch

FOR_EMOJI, FOR_PHOTOGRAPHS = "emoji-clip", "photo-clip"
LOOKED_AT = 24
"""Images, evenly spread; they cost a fraction of a second."""


def default_image_text(count: int, load: Callable[[int], ImageLike]) -> str:
    """`FOR_EMOJI` where most of some images look like emoji, else `FOR_PHOTOGRAPHS`.

    `load` gives image i of `count`; those that cannot be read do not count.
    """
    pixels: list[np.ndarray] = []
    for row in _spread(count):
        try:
            pixels.append(fit_image(load(row), SIDE))
        except DataError:  # what encodes them will say so
            continue
    domain = read_watch(resolve_model(FOR_EMOJI)).domain
    if not pixels or domain is None:
        return FOR_PHOTOGRAPHS
    unlike = domain.unlike(torch.from_numpy(np.stack(pixels)))
    return FOR_EMOJI if int(unlike.sum()) * 2 < len(pixels) else FOR_PHOTOGRAPHS


def _spread(count: int) -> Sequence[int]:
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, LOOKED_AT)).round()})
