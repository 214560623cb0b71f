"""Whether images look like those that a model was trained on.

A model answers for any image: one that knows drawings on white names photographs as well, and is wrong. So a model
directory keeps, in `domain.json`, how nine plain statistics of pixels are distributed over its training images: mean,
covariance, and the Mahalanobis distance that 99 % of these images stay below. They need no network and are the same for
every system.

Measured on 2026-12-01, images fitted to 32 x 32: with the statistics of half of the emoji source, 0.6 % of the other
half are unlike them, 5 % of these as JPEG files of quality 75, and 93 % of these on black; of 286 photographs of things
93 %, of 800 of scenes 95 %, of 3,000 images of CIFAR-10 96 %. With those of half of these images of CIFAR-10, 1.1 % of
the other half are unlike them, 4 and 2 % of the photographs, and 95 % of the emoji. With those of 100 photographs of
scenes, 3.5 % of the others.

Dimensions: N images, S their side in pixels, D statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from opsin.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = 9
WITHIN = 0.99
"""The share of training images that are told to be like training images."""
FEWEST_IMAGES, MOST_IMAGES = 100, 1_000
"""Of fewer training images nothing is told, and no more are looked at."""
SIDE = 32
"""Larger images are averaged down to this many pixels, at which photographs and tiny images have the same texture."""
EQUAL, CLOSE, EDGE = 8 / 255, 32 / 255, 64 / 255
"""Differences between neighbouring pixels: below the first they are one color, also after JPEG compression."""
NEARLY_WHITE = 0.97
VARIANCE = 1e-4
"""Added to each statistic's variance, in the units of [0, 1] that all of them have, so that any covariance inverts."""
NOTABLE = 0.25
"""The share of images unlike the training images from which on it is worth a word."""


@dataclass(frozen=True, kw_only=True)
class ImageDomain:
    """How `statistics` are distributed over training images. `precision` is the inverse of their covariance (D, D);
    images whose squared Mahalanobis distance is above `limit` are unlike the training images."""

    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        if {STATISTICS} != {len(self.mean), len(self.precision), *map(len, self.precision)}:
            raise ConfigError(f"mean and precision must be of the {STATISTICS} statistics that this opsin computes")

    @classmethod
    def of(cls, pixels: Tensor) -> ImageDomain | None:
        """The domain of training images uint8 (N, 3, S, S); None of fewer than `FEWEST_IMAGES`."""
        import torch

        if len(pixels) < FEWEST_IMAGES:
            return None
        values = statistics(pixels)
        precision = torch.linalg.inv(values.T.cov() + VARIANCE * torch.eye(STATISTICS, dtype=values.dtype))
        distances = _distances(values, values.mean(dim=0), precision)
        # Images that the covariance was not estimated from lie farther away, by about this factor. The mean of the
        # distances is the number of statistics, unless all images are as good as the same.
        limit = max(STATISTICS, float(distances.quantile(WITHIN)) * (1 + 2 * STATISTICS / len(values)))
        rows = tuple(tuple(round(value, 4) for value in row) for row in precision.tolist())
        mean = tuple(round(value, 6) for value in values.mean(dim=0).tolist())
        return cls(mean=mean, precision=rows, limit=round(limit, 4))

    def unlike(self, pixels: Tensor) -> Tensor:
        """bool (N,): which of the images uint8 (N, 3, S, S) are unlike the training images."""
        import torch

        values = statistics(pixels)
        mean, precision = (torch.tensor(part, dtype=values.dtype) for part in (self.mean, self.precision))
        return _distances(values, mean, precision) > self.limit


class Watch:
    """Counts the images that a model is given, `seen`, and those that are unlike its training images, `unlike`.

    Threads may call it at once. Without a domain it counts nothing.
    """

    def __init__(self, domain: ImageDomain | None = None) -> None:
        self.domain = domain
        self.seen = 0
        self.unlike = 0
        self._lock = Lock()
        self._is_paused = False

    @property
    def is_notable(self) -> bool:
        """Whether so many images are unlike the training images that a person should know."""
        return self.unlike > 0 and self.unlike >= NOTABLE * self.seen

    def see(self, pixels: Tensor) -> None:
        """Count images uint8 (N, 3, S, S)."""
        if self.domain is None or self._is_paused:
            return
        unlike = int(self.domain.unlike(pixels).sum())
        with self._lock:
            self.seen += len(pixels)
            self.unlike += unlike

    @contextmanager
    def paused(self) -> Iterator[None]:
        """In the block nothing is counted, whichever thread it comes from."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False


def watch_of(model: object) -> Watch:
    """The watch of a model of opsin; of anything else one that counts nothing."""
    watch = getattr(model, "watch", None)
    return watch if isinstance(watch, Watch) else Watch()


def statistics(pixels: Tensor) -> Tensor:
    """float64 (N, D) on the CPU, all in [0, 1], for images uint8 (N, 3, S, S).

    Mean and standard deviation of the luminance, mean saturation, shares of neighboring pixels that are equal, close,
    and divided by an edge, mean and standard deviation of the border, and the share of white.
    """
    import torch
    import torch.nn.functional as F

    images = pixels.cpu().float() / 255
    if images.shape[-1] > SIDE:
        images = F.adaptive_avg_pool2d(images, SIDE)
    luminance = images.mean(dim=1)
    saturation = images.amax(dim=1) - images.amin(dim=1)
    steps = [images.diff(dim=axis).abs().amax(dim=1).flatten(1) for axis in (2, 3)]
    step = torch.cat(steps, dim=1) if steps[0].numel() else torch.zeros(len(images), 1)
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    columns = (
        luminance.mean(dim=(1, 2)),
        luminance.std(dim=(1, 2), correction=0),
        saturation.mean(dim=(1, 2)),
        (step < EQUAL).float().mean(dim=1),
        ((step >= EQUAL) & (step < CLOSE)).float().mean(dim=1),
        (step > EDGE).float().mean(dim=1),
        border.mean(dim=(1, 2)),
        border.std(dim=2, correction=0).mean(dim=1),
        (images.amin(dim=1) > NEARLY_WHITE).float().mean(dim=(1, 2)),
    )
    return torch.stack(columns, dim=1).double()


def _distances(values: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """Squared Mahalanobis distances (N,)."""
    centered = values - mean
    return ((centered @ precision) * centered).sum(dim=1)
