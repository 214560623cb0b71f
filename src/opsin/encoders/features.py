"""What an encoder gives for the images of a source, or for fixed texts: computed once, kept in the cache.

Dimensions: N images, P patches, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from opsin.domain import watch_of
from opsin.encoders.base import (
    BATCH_SIZE,
    DenseEncoder,
    ImageEncoder,
    NetworkEncoder,
    TextEncoder,
    batched,
    input_size,
    sample_image,
)
from opsin.encoders.fingerprint import fingerprint
from opsin.encoders.own import EncoderModel
from opsin.errors import CheckpointError, DataError, OpsinError
from opsin.files import atomic_write
from opsin.images.decoding import map_rows
from opsin.images.opening import ImageLike, pixel_digest
from opsin.progress import Progress, working
from opsin.runtime import cache_dir, resolve_precision
from opsin.sources.image_source import ImageSource, map_readable

CACHE_VERSION = 4
"""Features of another version are not used: older ones may be of images that were turned twice."""

logger = logging.getLogger(__name__)


def views_of(image: Image.Image) -> list[Image.Image]:
    """The image, of which many encoders see the center only, and all of it as a square."""
    side = min(image.size)
    return [image, image if image.width == image.height else image.resize((side, side), Image.Resampling.BICUBIC)]


def signed_root(values: Tensor) -> Tensor:
    """Each value's square root with its sign: power normalization, from "Improving the Fisher Kernel for Large-Scale
    Image Classification" (Perronnin, Sanchez and Mensink 2010)."""
    return values.sign() * values.abs().sqrt()


def image_features(encoder: NetworkEncoder, images: Iterable[ImageLike]) -> tuple[Tensor, tuple[int, int] | None]:
    """Features float32 of at least one image on the CPU: (N, P, D) with the grid of the patches where the encoder has
    patches, else one vector an image, (N, D), and None."""
    if isinstance(encoder, DenseEncoder):
        batches = list(encoder.encode_dense(images))
        if not batches:
            raise ValueError("features need at least one image")
        return torch.cat([batch.tokens for batch in batches]), batches[0].grid
    return encoder.encode_image(images, normalize=False), None


def source_features(
    source: ImageSource, encoder: NetworkEncoder, *, progress: Progress | None = None
) -> tuple[ImageSource, np.ndarray]:
    """`image_features` of the usable images of a source as a memory map, float16 (N, P, D) or (N, D), from the cache.

    The source comes back without the images that cannot be read, which are listed in its `skipped`, so that row i of
    the features is its image i. The cache knows images by their pixels and encoders by their weights and what they make
    of an image before: neither a changed picture nor a retrained encoder gives old features. When a call is stopped,
    the next one continues where it was. Raises DataError when no image can be read, or when the cache cannot be
    written, and Cancelled.
    """

    def encode(images: list[Image.Image]) -> Tensor:
        return image_features(encoder, images)[0].half()

    return cached_features(
        source, encoder, "patches" if isinstance(encoder, DenseEncoder) else "vectors", encode, progress=progress
    )


def source_vectors(
    source: ImageSource, encoder: ImageEncoder, *, progress: Progress | None = None
) -> tuple[ImageSource, Tensor]:
    """What `encoder.encode_image` gives for the usable images of a source, float32 (N, D), of length one, from the
    cache; the source comes back and errors are raised as by `source_features`."""
    usable, vectors = cached_features(source, encoder, "unit vectors", encoder.encode_image, progress=progress)
    return usable, torch.from_numpy(np.array(vectors))


def text_vectors(encoder: TextEncoder, weights: str, texts: Sequence[str]) -> np.ndarray:
    """What `encoder.encode_text` gives for at least one text, float32 (N, D), of length one.

    `weights` is the encoder's fingerprint; encoders of the same name, weights and precision are one to the cache.
    Vectors that cannot be kept are given all the same, and computed again the next time.
    """
    precision = resolve_precision(encoder.precision, encoder.device) if isinstance(encoder, NetworkEncoder) else ""
    key = hashlib.sha256(repr((CACHE_VERSION, encoder.name, weights, precision, tuple(texts))).encode()).hexdigest()
    path = cache_dir() / "texts" / f"{key[:32]}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # a second process or thread waits here, and then finds the file
            with contextlib.suppress(OSError, ValueError, EOFError):  # not there yet, or damaged
                return np.load(path)
            vectors = encoder.encode_text(texts).numpy()
            with atomic_write(path) as file:
                np.save(file, vectors)
            return vectors
    except (OSError, CheckpointError) as error:
        logger.warning("the vectors of texts cannot be kept in %s: %s", path.parent, error)
        return encoder.encode_text(texts).numpy()


def cached_features(
    source: ImageSource,
    encoder: ImageEncoder,
    kind: str,
    encode: Callable[[list[Image.Image]], Tensor],
    *,
    progress: Progress | None,
) -> tuple[ImageSource, np.ndarray]:
    """The usable images of a source, and a memory map of what `encode` gives for each batch of them, from the cache.

    `kind` tells from each other what different callers make of the same images with the same encoder. The source comes
    back and errors are raised as by `source_features`.
    """

    size = input_size(encoder)

    def digest(row: int) -> bytes:
        image = source.load(row, size)
        if isinstance(encoder, EncoderModel) and encoder.watch.domain is not None:  # also of images in the cache
            encoder.see(encoder._prepare(image)[None])
        return pixel_digest(image)

    usable, digests = map_readable(source, digest, progress=progress, title="reading")
    path = cache_dir() / "features" / f"{_key(encoder, kind, digests)}.npy"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # a second process waits here, and then finds the file
                if not path.is_file():
                    with watch_of(encoder).paused():  # all images have been seen above
                        _write(path, usable, encode, size, progress=progress)
        except OpsinError:
            raise
        except OSError as error:
            raise DataError(
                f"the features of {source.name!r} cannot be written: {error}; make room in {path.parent}, or set "
                "OPSIN_CACHE to another directory"
            ) from error
    return usable, np.load(path, mmap_mode="r")


def _key(encoder: ImageEncoder, kind: str, digests: list[bytes]) -> str:
    parts = [CACHE_VERSION, kind, encoder.name, fingerprint(encoder)]
    if isinstance(encoder, NetworkEncoder):
        parts += [resolve_precision(encoder.precision, encoder.device), encoder.preparation()]
    else:  # how it prepares images shows only in what it makes of one
        parts.append(encoder.encode_image([sample_image()]).numpy().tobytes())
    key = hashlib.sha256(repr(parts).encode())
    for digest in digests:
        key.update(digest)
    return key.hexdigest()[:32]


def _write(
    path: Path,
    source: ImageSource,
    encode: Callable[[list[Image.Image]], Tensor],
    size: int | None,
    *,
    progress: Progress | None,
) -> None:
    """Write the array file, batch by batch into another file, which takes its place when it is whole.

    What a call that was stopped has left there is continued, at the beginning of a batch: the composition of the
    batches, and so every bit of the features, is the same.
    """
    part = path.with_suffix(".part")
    part.touch()
    with open(part, "r+b") as file:
        done = _continue(file)
        images = map_rows(lambda row: source.load(done + row, size), len(source) - done)
        with working(progress, "encoding", len(source), done=done) as advance:
            for batch in batched(images, BATCH_SIZE):
                features = encode(batch).numpy()
                if file.tell() == 0:
                    shape = (len(source), *features.shape[1:])
                    descr = np.lib.format.dtype_to_descr(features.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(features).tobytes())
                advance(len(batch))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _continue(file: BinaryIO) -> int:
    """How many rows of whole batches an array file has; it is cut behind them, and writing continues there."""
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:  # nothing, or a part of the header
        file.seek(0)
        file.truncate()
        return 0
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    written = (os.fstat(file.fileno()).st_size - file.tell()) // row_bytes
    done: int = written if written == shape[0] else written // BATCH_SIZE * BATCH_SIZE
    file.seek(done * row_bytes, os.SEEK_CUR)
    file.truncate()
    return done
