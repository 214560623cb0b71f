"""What a frozen encoder gives for the images of a source: computed once, kept in the cache.

Dimensions: N images, P patches, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from opsin.checkpoint import atomic_write
from opsin.data.images import ImageLike, Skipped
from opsin.data.pixels import map_rows
from opsin.data.sources import ImageSource
from opsin.encoders.base import BATCH_SIZE, DenseEncoder, NetworkEncoder
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import CheckpointError, DataError
from opsin.runtime import cache_dir

CACHE_VERSION = 1


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
    """`image_features` of a whole source as a memory map, float16 (N, P, D) or (N, D); from the cache, if there.

    The source comes back without the images that cannot be read, which are listed in its `skipped`, so that row i of
    the features is its image i. The cache knows images by their pixels and encoders by their weights: neither a
    changed picture nor a retrained encoder gives old features. Raises DataError when no image can be read, or when the
    cache cannot be written.
    """
    usable, digests = _readable(source)
    path = cache_dir() / "features" / f"{_key(encoder, digests)}.npy"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # a second process waits here, and then finds the file
                if not path.is_file():
                    _write(path, usable, encoder, quiet=quiet)
        except (OSError, CheckpointError) as error:
            raise DataError(
                f"the features of {source.name!r} cannot be written: {error}; make room in {path.parent}, or set "
                "OPSIN_CACHE to another directory"
            ) from error
    return usable, np.load(path, mmap_mode="r")


def _readable(source: ImageSource) -> tuple[ImageSource, list[bytes]]:
    """The images that can be read, and a digest of each one's pixels."""

    def digest(row: int) -> bytes | str:
        try:
            image = source.load(row)
        except DataError as error:
            return str(error)
        return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()

    results = list(map_rows(digest, len(source)))
    good = np.array([isinstance(result, bytes) for result in results], dtype=bool)
    skipped = [Skipped(source.ids[row], text) for row, text in enumerate(results) if isinstance(text, str)]
    if not good.any():
        reason = f"; the first: {skipped[0].reason}" if skipped else ""
        raise DataError(f"none of the {len(source)} images of {source.name!r} can be read{reason}")
    usable = replace(source, skipped=[*source.skipped, *skipped]).select(good)
    return usable, [result for result in results if isinstance(result, bytes)]


def _key(encoder: NetworkEncoder, digests: list[bytes]) -> str:
    key = hashlib.sha256(f"{CACHE_VERSION}/{encoder.name}/{encoder.precision}/{fingerprint(encoder)}/".encode())
    for digest in digests:
        key.update(digest)
    return key.hexdigest()[:32]


def _write(path: Path, source: ImageSource, encoder: NetworkEncoder, *, quiet: bool) -> None:
    """The array file, row by row as the encoder goes on, and whole or not at all."""
    with atomic_write(path) as file, tqdm(desc="encoding", total=len(source), unit=" images", disable=quiet) as bar:
        for batch in _batches(source):
            features = image_features(encoder, batch)[0].half().numpy()
            if bar.n == 0:
                shape = (len(source), *features.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(features.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(features).tobytes())
            bar.update(len(batch))


def _batches(source: ImageSource) -> Iterator[list[Image.Image]]:
    for start in range(0, len(source), BATCH_SIZE):
        part = source.select(np.arange(start, min(start + BATCH_SIZE, len(source))))
        yield list(map_rows(part.load, len(part)))
