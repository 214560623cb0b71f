"""What an encoder can do, whatever library its weights come from.

Dimensions: N images, D width of the features, P patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from opsin.data.pixels import each_image
from opsin.data.unread import Unread
from opsin.errors import ConfigError
from opsin.images.decoding import DECODING_THREADS
from opsin.images.opening import ImageLike, open_image
from opsin.images.preprocessing import Preprocessing
from opsin.progress import Progress, tracked
from opsin.runtime import autocast, refuse_damaged
from opsin.state_dicts import digest_in_order

BATCH_SIZE = 32

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class DenseFeatures:
    """One vector a patch for a batch of images: `tokens` float32 (N, P, D) on the CPU, patches row by row; `grid` is
    (rows, columns)."""

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
class TextEncoder(Protocol):
    """Gives one vector for a whole text."""

    name: str
    """The reference that `opsin.encoders.load` takes."""

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        """float32 (N, D) on the CPU for at least one text, of length one with `normalize`; what a text has beyond the
        length that the network can read is left out. Raises ValueError without any text."""
        ...


@runtime_checkable
class TokenEncoder(TextEncoder, Protocol):
    """A text encoder that tells what it reads of a text."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """What the network gets of N texts: token numbers int64 (N, T), which are the same for texts that it cannot
        tell apart."""
        ...

    def unread(self, texts: Sequence[str]) -> Unread:
        """Of which texts nothing can be read, where that can be told, and which are longer than what is read."""
        ...


@runtime_checkable
class ImageTextEncoder(ImageEncoder, TextEncoder, Protocol):
    """Gives vectors of images and texts that can be compared by their cosine."""

    logit_scale: float
    """The factor on cosines before a softmax over them; the inverse of the temperature of training."""


@runtime_checkable
class DenseEncoder(Protocol):
    """Gives a vector for every patch of an image, after the network's last norm and before any projection."""

    name: str
    """The reference that `opsin.encoders.load` takes."""

    def encode_dense(
        self,
        images: Iterable[ImageLike],
        *,
        size: tuple[int, int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> Iterator[DenseFeatures]:
        """The patches of a stream of images, such as the frames of a video, a batch at a time, in order.

        Args:
            images: Taken as they are needed: two batches are held at a time, so that memory is bounded.
            size: Rows and columns in pixels that each whole image is resized to, whatever its shape, rounded to whole
                patches; positions are interpolated. By default images are prepared as for `encode_image`. The larger
                the size, the fewer images are in a batch.
            strides: Of a convolutional network, which stages to join, by the pixels between neighboring places: their
                maps are brought to the grid of the finest by bilinear interpolation, scaled to length one at each
                place, and concatenated. By default the network's last map.

        Raises:
            ConfigError: For a size or strides that the network does not have.
            DataError: For a broken image, when its turn comes.
        """
        ...


class NetworkEncoder:
    """Common to all encoders: images become network input in batches, and nothing is ever trained.

    A kind of encoder says how to prepare an image and what its network gives.
    """

    def __init__(self, name: str, network: torch.nn.Module, device: torch.device) -> None:
        self.name = name
        self.network = network.to(device).eval().requires_grad_(False)
        self.precision = "auto"
        """What features are computed in: auto, 32, bf16 or 16; see `opsin.runtime.resolve_precision`."""

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of every weight that its vectors are made by."""
        return digest_in_order(self.weights().items())

    def weights(self) -> dict[str, Tensor]:
        """The weights that vectors are made by: those of a head or projection that does not are not among them."""
        return self.network.state_dict()

    def encode_image(
        self, images: ImageLike | Iterable[ImageLike], *, normalize: bool = True, progress: Progress | None = None
    ) -> Tensor:
        """See `ImageEncoder.encode_image`. Raises ValueError without any image, CheckpointError for a network whose
        vectors are NaN, and Cancelled; a list of images has a known total in the `progress`."""
        total = len(images) if isinstance(images, list | tuple) else None
        images = tracked(each_image(images), progress, "encoding", total)
        with torch.inference_mode(), autocast(self.device, self.precision):
            pooled = [self._pooled(batch).float().cpu() for batch in self._batches(images)]
        if not pooled:
            raise ValueError("encode_image needs at least one image")
        features = torch.cat(pooled)
        refuse_damaged(features, self.name)
        return F.normalize(features, dim=1) if normalize else features

    @cached_property
    def input_size(self) -> int:
        """Pixels of the longer side of the network's input; the `size` of `open_image` for images to encode."""
        return _longer_side(self._prepare(sample_image()))

    def preparation(self) -> str:
        """SHA-256, in hexadecimal, of the network input of a certain image: the same for the same way to prepare."""
        return hashlib.sha256(self._prepare(sample_image()).contiguous().numpy().tobytes()).hexdigest()

    def _prepare(self, image: Image.Image) -> Tensor:
        """Network input float32 (3, H, W) of one RGB image; called by several threads at once."""
        raise NotImplementedError

    def _pooled(self, images: Tensor) -> Tensor:
        """Vectors (N, D) of network input (N, 3, H, W)."""
        raise NotImplementedError

    def see(self, images: Tensor) -> None:
        """Called with all network input (N, 3, H, W), on the CPU; nothing by default."""

    def _batches(
        self,
        images: ImageLike | Iterable[ImageLike],
        prepare: Callable[[Image.Image], Tensor] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Tensor]:
        """Network input in batches, by default of `_prepare`; threads open and prepare the images of the next one while
        the network works.

        An image is handed to them as soon as it is drawn from `images`, so that large ones need not lie in memory
        together, decoded, until there is a batch of them.
        """
        prepare = prepare or self._prepare

        def prepared(image: ImageLike) -> Tensor:
            return prepare(open_image(image, size=size))

        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            size = pool.submit(lambda: _longer_side(prepare(sample_image()))).result()
            upcoming = batched((pool.submit(prepared, image) for image in each_image(images)), batch_size)
            current = next(upcoming, None)
            while current is not None:
                following = next(upcoming, None)
                inputs = torch.stack([input.result() for input in current])
                self.see(inputs)
                yield inputs.to(self.device)
                current = following


class TextNetwork:
    """Common to encoders with a text half: texts go through it in batches."""

    name: str
    device: torch.device
    precision: str

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        """See `TextEncoder.encode_text`. Raises ValueError without any text, TypeError for a single string."""
        if isinstance(texts, str):
            raise TypeError(f"encode_text takes a list of texts; write [{texts!r}] for a single one")
        with torch.inference_mode(), autocast(self.device, self.precision):
            tokens = (self.tokenize(batch).to(self.device) for batch in batched(texts, BATCH_SIZE))
            pooled = [self._pooled_tokens(batch).float().cpu() for batch in tokens]
        if not pooled:
            raise ValueError("encode_text needs at least one text")
        features = torch.cat(pooled)
        refuse_damaged(features, self.name)
        return F.normalize(features, dim=1) if normalize else features

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """See `TokenEncoder.tokenize`."""
        raise NotImplementedError

    def unread(self, texts: Sequence[str]) -> Unread:
        """See `TokenEncoder.unread`."""
        raise NotImplementedError

    def _pooled_tokens(self, tokens: Tensor) -> Tensor:
        """Vectors (N, D) of the tokens of N texts."""
        raise NotImplementedError


class DenseNetworkEncoder(NetworkEncoder):
    """A network that has a vector for every patch as well."""

    patch_size = 1
    """Sides of the network's input are multiples of it."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Mean and deviation of the channels, for images of any size."""
        raise NotImplementedError

    def encode_dense(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        size: tuple[int, int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> Iterator[DenseFeatures]:
        """See `DenseEncoder.encode_dense`. Raises CheckpointError for a network whose vectors are NaN."""
        dense = self._dense if strides is None else self._joined(strides)
        if size is None:
            return self._dense_batches(self._batches(images), dense)
        rows, columns = self._fitted(size)

        def prepare(image: Image.Image) -> Tensor:
            if image.size != (columns, rows):
                image = image.resize((columns, rows), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
            return self.preprocessing.prepare(pixels[None])[0]

        batch_size = max(1, BATCH_SIZE * self.input_size**2 // (rows * columns))
        return self._dense_batches(self._batches(images, prepare, batch_size), dense)

    def _dense_batches(
        self, batches: Iterator[Tensor], dense: Callable[[Tensor], tuple[Tensor, tuple[int, int]]]
    ) -> Iterator[DenseFeatures]:
        for batch in batches:
            # Modes of torch are those of a thread: between two batches they would be the caller's.
            with torch.inference_mode(), autocast(self.device, self.precision):
                tokens, grid = dense(batch)
                tokens = tokens.float().cpu()
            refuse_damaged(tokens, self.name)
            yield DenseFeatures(tokens, grid)

    def _fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        """The nearest size that is whole patches, at least one in each direction."""
        if min(size) < 1:
            raise ConfigError(f"size is rows and columns of at least one pixel each, not {size}")
        rows, columns = (max(1, round(side / self.patch_size)) * self.patch_size for side in size)
        return rows, columns

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (N, P, D) of network input (N, 3, H, W), and their grid."""
        raise NotImplementedError

    def _joined(self, strides: Sequence[int]) -> Callable[[Tensor], tuple[Tensor, tuple[int, int]]]:
        """What gives the tokens of these stages, joined, in the place of `_dense`."""
        raise ConfigError(f"{self.name} has one map of features; strides are for convolutional networks")


def unread_texts(encoder: TextEncoder, texts: Sequence[str]) -> Unread:
    """What `TokenEncoder.unread` tells of texts; nothing for an encoder that does not tell."""
    return encoder.unread(texts) if isinstance(encoder, TokenEncoder) else Unread(len(texts))


def input_size(encoder: ImageEncoder) -> int | None:
    """The `size` of `open_image` for images that this encoder will get; None where it does not say."""
    return encoder.input_size if isinstance(encoder, NetworkEncoder) else None


def _longer_side(input: Tensor) -> int:
    return max(input.shape[-2:])


def sample_image() -> Image.Image:
    """Always the same RGB image, of which encoders that prepare images in different ways make different things."""
    rows, columns = np.mgrid[:120, :200]
    return Image.fromarray(np.stack([rows * columns, rows + columns, rows - columns], axis=2).astype(np.uint8))


def batched(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """The items in lists of `size`, the last one perhaps shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
