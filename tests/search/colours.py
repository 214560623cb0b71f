"""A real encoder whose vectors can be worked out by hand: of images the mean colour, of texts the colours they name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opsin.images.opening import ImageLike, open_image
from opsin.search.index import ImageIndex

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0), "white": (255,) * 3}
SIDE = 4


class ColourEncoder:
    """Width 4: red, green, blue, and a constant, relative to grey; normalised."""

    name = "colours"
    logit_scale = 10.0

    def __init__(self, fingerprint: str = "colours/1") -> None:
        self.fingerprint = fingerprint
        self.images_encoded = 0

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
        opened = [open_image(image).resize((1, 1), Image.Resampling.BOX) for image in images]
        self.images_encoded += len(opened)
        return self._vectors([image.getpixel((0, 0)) for image in opened], normalize)

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        def colour(text: str) -> tuple[float, ...]:
            named = [COLOURS[word] for word in text.lower().split() if word in COLOURS] or [(128, 128, 128)]
            return tuple(np.mean(named, axis=0))

        return self._vectors([colour(text) for text in texts], normalize)

    def _vectors(self, colours: list[tuple[float, ...]], normalize: bool) -> Tensor:
        vectors = torch.tensor([[*(value / 127.5 - 1 for value in colour), 0.5] for colour in colours]).float()
        return torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors


def load_colours() -> ColourEncoder:
    return ColourEncoder()


def paint(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), colour).save(path, format="PNG")
    return path


def paint_many(folder: Path, count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Images `000.png`, … of different colours."""
    generator = np.random.default_rng(seed)
    colours = [tuple(int(value) for value in generator.integers(256, size=3)) for _ in range(count)]
    for number, colour in enumerate(colours):
        paint(folder / f"{number:03d}.png", colour)
    return colours


def assert_finds_what_is_there(index: ImageIndex, folder: Path) -> None:
    """Every image of the folder, and nothing else, in the order of the cosines that the encoder itself gives."""
    files = sorted(path for path in folder.rglob("*.png"))
    vectors = ColourEncoder().encode_image(files).numpy().astype(np.float16).astype(np.float64)
    query = ColourEncoder().encode_text(["red"]).numpy()[0].astype(np.float64)
    cosines = np.clip(vectors @ query, -1, 1)
    hits = index.search("red", k=len(files) + 10)
    assert {hit.path for hit in hits} == set(files)
    np.testing.assert_allclose([hit.cosine for hit in hits], sorted(cosines, reverse=True), atol=1e-5)
    own = dict(zip(files, cosines, strict=True))
    np.testing.assert_allclose([hit.cosine for hit in hits], [own[hit.path] for hit in hits], atol=1e-5)
