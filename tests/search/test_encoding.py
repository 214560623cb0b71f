"""Images are read and encoded in order, and are not all in memory at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path

import torch

from opsin.images.opening import ImageLike
from opsin.search.collection import list_folder
from opsin.search.encoding import encode_entries
from tests.search.colours import ColourEncoder, paint_many


def test_images_are_opened_as_the_encoder_asks_for_them(tmp_path: Path) -> None:
    """An encoder that keeps no image needs the memory of two at most, the next one included."""
    paint_many(tmp_path, 20)
    (tmp_path / "000.png").write_bytes(b"no image")
    (tmp_path / "007.png").write_bytes(b"")
    seen: list[weakref.ref] = []
    most = 0

    def encode(images: Iterable[ImageLike]) -> torch.Tensor:
        nonlocal most
        vectors = []
        for image in images:
            seen.append(weakref.ref(image))
            most = max(most, sum(image() is not None for image in seen))
            vectors.append(ColourEncoder().encode_image([image]))
        return torch.cat(vectors)

    collection = list_folder(tmp_path)
    (results,) = encode_entries(collection, collection.entries, encode, workers=1)
    assert [result.entry.id for result in results] == [f"{number:03d}.png" for number in range(20)]
    assert [result.entry.id for result in results if result.vector is None] == ["000.png", "007.png"]
    expected = ColourEncoder().encode_image([tmp_path / result.entry.id for result in results if not result.problem])
    vectors = [torch.from_numpy(result.vector) for result in results if result.vector is not None]
    assert torch.equal(torch.stack(vectors), expected.half())
    assert most <= 2


def test_known_and_broken_images_alone_need_no_encoder(tmp_path: Path) -> None:
    paint_many(tmp_path, 2)
    (tmp_path / "001.png").write_bytes(b"no image")
    collection = list_folder(tmp_path)
    known, _ = (collection.content(entry)[0] for entry in collection.entries)
    encoder = ColourEncoder()
    (results,) = encode_entries(collection, collection.entries, encoder.encode_image, lambda digest: digest == known)
    assert encoder.images_encoded == 0
    assert [bool(result.problem) for result in results] == [False, True] and results[0].vector is None
