"""What an encoder can do, whatever library its weights come from.

Dimensions: N images, D width of the features, P patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.data.images import ImageLike, open_image
from opsin.runtime import autocast

BATCH_SIZE = 32


@dataclass(frozen=True)
class DenseFeatures:
    """One vector a patch: `tokens` float32 (N, P, D) on the CPU, patches row by row; `grid` is (rows, columns)."""

    tokens: Tensor
    grid: tuple[int, int]


@runtime_checkable
class ImageEncoder(Protocol):
    """Gives one vector for a whole image."""

    name: str
    """The reference that `opsin.encoders.load` takes."""

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
        """float32 (N, D) on the CPU for at least one image, of length one with `normalize`.

        Raises DataError for a broken image.
        """
        ...


@runtime_checkable
class DenseEncoder(Protocol):
    """Gives a vector for every patch of an image, after the network's last norm and before any projection."""

    name: str
    """The reference that `opsin.encoders.load` takes."""

    def encode_dense(self, images: Iterable[ImageLike]) -> DenseFeatures:
        """The patches of at least one image. Raises DataError for a broken image."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Gives one vector for a text."""

    name: str
    """The reference that `opsin.encoders.load` takes."""

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """float32 (N, D) on the CPU for at least one text, of length one with `normalize`."""
        ...


class NetworkEncoder:
    """Common to all encoders: images become network input in batches, and nothing is ever trained.

    A kind of encoder says how to prepare an image and what its network gives.
    """

    def __init__(self, name: str, network: torch.nn.Module, device: torch.device) -> None:
        self.name = name
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = device

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
        """See `ImageEncoder.encode_image`. Raises ValueError without any image."""
        with torch.inference_mode(), autocast(self.device):
            pooled = [self._pooled(batch).float().cpu() for batch in self._batches(images)]
        if not pooled:
            raise ValueError("encode_image needs at least one image")
        features = torch.cat(pooled)
        return F.normalize(features, dim=1) if normalize else features

    def _prepare(self, image: ImageLike) -> Tensor:
        """Network input float32 (3, H, W) of one image."""
        raise NotImplementedError

    def _pooled(self, images: Tensor) -> Tensor:
        """Vectors (N, D) of network input (N, 3, H, W)."""
        raise NotImplementedError

    def _batches(self, images: Iterable[ImageLike]) -> Iterator[Tensor]:
        batch: list[Tensor] = []
        for image in images:
            batch.append(self._prepare(open_image(image)))
            if len(batch) == BATCH_SIZE:
                yield torch.stack(batch).to(self.device)
                batch = []
        if batch:
            yield torch.stack(batch).to(self.device)


class DenseNetworkEncoder(NetworkEncoder):
    """A network that has a vector for every patch as well."""

    def encode_dense(self, images: Iterable[ImageLike]) -> DenseFeatures:
        """See `DenseEncoder.encode_dense`. Raises ValueError without any image."""
        with torch.inference_mode(), autocast(self.device):
            parts = [self._dense(batch) for batch in self._batches(images)]
        if not parts:
            raise ValueError("encode_dense needs at least one image")
        return DenseFeatures(torch.cat([tokens.float().cpu() for tokens, _ in parts]), parts[0][1])

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (N, P, D) of network input (N, 3, H, W), and their grid."""
        raise NotImplementedError
