"""What an encoder gives for the images of a source, or for fixed texts: computed once, kept in the cache.

Dimensions: N images, P patches, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

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
from opsin.errors import CheckpointError, DataError
from opsin.files import atomic_write
from opsin.images.opening import ImageLike, pixel_digest
from opsin.images.threads import map_rows
from opsin.progress import CountedProgress
from opsin.runtime import cache_dir, resolve_precision
from opsin.sources.image_source import ImageSource, map_readable

CACHE_VERSION = 4
"""Features of another version are not used: older ones may be of images that were turned twice."""

logger = logging.getLogger(__name__)


def image_features(encoder: NetworkEncoder, images: Iterable[ImageLike]) -> tuple[Tensor, tuple[int, int] | None]:
    """Features float32 of at least one image on the CPU: (N, P, D) with the grid of the patches where the encoder has
    patches, else one vector an image, (N, D), and None."""
    if isinstance(encoder, DenseEncoder):
        dense = encoder.encode_dense(images)
        return dense.tokens, dense.grid
    return encoder.encode_image(images, normalize=False), None


def source_features(
    source: ImageSource, encoder: NetworkEncoder, *, quiet: bool = False
) -> tuple[ImageSource, np.ndarray]:
    """`image_features` of the usable images of a source as a memory map, float16 (N, P, D) or (N, D), from the cache.

    The source comes back without the images that cannot be read, which are listed in its `skipped`, so that row i of
    the features is its image i. The cache knows images by their pixels and encoders by their weights and what they make
    of an image before: neither a changed picture nor a retrained encoder gives old features. Raises DataError when no
    image can be read, or when the cache cannot be written.
    """

    def encode(images: list[Image.Image]) -> Tensor:
        return image_features(encoder, images)[0].half()

    return _cached(source, encoder, "patches" if isinstance(encoder, DenseEncoder) else "vectors", encode, quiet=quiet)


def source_vectors(source: ImageSource, encoder: ImageEncoder, *, quiet: bool = False) -> tuple[ImageSource, Tensor]:
    """What `encoder.encode_image` gives for the usable images of a source, float32 (N, D), of length one, from the
    cache; the source comes back and errors are raised as by `source_features`."""
    usable, vectors = _cached(source, encoder, "unit vectors", encoder.encode_image, quiet=quiet)
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


def _cached(
    source: ImageSource, encoder: ImageEncoder, kind: str, encode: Callable[[list[Image.Image]], Tensor], *, quiet: bool
) -> tuple[ImageSource, np.ndarray]:
    """The usable images and a memory map of what `encode` gives for them, which is called for a new file only."""

    size = input_size(encoder)

    def digest(row: int) -> bytes:
        image = source.load(row, size)
        if isinstance(encoder, EncoderModel) and encoder.watch.domain is not None:  # also of images in the cache
            encoder.see(encoder._prepare(image)[None])
        return pixel_digest(image)

    usable, digests = map_readable(source, digest)
    path = cache_dir() / "features" / f"{_key(encoder, kind, digests)}.npy"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # a second process waits here, and then finds the file
                if not path.is_file():
                    with watch_of(encoder).paused():  # all images have been seen above
                        _write(path, usable, encode, size, quiet=quiet)
        except (OSError, CheckpointError) as error:
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
    path: Path, source: ImageSource, encode: Callable[[list[Image.Image]], Tensor], size: int | None, *, quiet: bool
) -> None:
    """The array file, row by row as the encoder goes on, and whole or not at all."""
    images = map_rows(lambda row: source.load(row, size), len(source))
    with atomic_write(path) as file, CountedProgress("encoding", len(source), quiet=quiet) as counter:
        for number, batch in enumerate(batched(images, BATCH_SIZE)):
            features = encode(batch).numpy()
            if number == 0:
                shape = (len(source), *features.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(features.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(features).tobytes())
            counter.advance(len(batch))
