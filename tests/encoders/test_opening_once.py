"""On its way into a model an image is opened, converted and copied once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin import Captioner, SimclrEncoder
from opsin.encoders import load
from opsin.encoders.features import source_vectors
from opsin.images.opening import open_image
from opsin.sources.opening import open_source

PIXELS = 600 * 900


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "photo.png"
    ramp = np.linspace(0, 255, PIXELS * 3).reshape(600, 900, 3).astype(np.uint8)
    Image.fromarray(ramp).save(path)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a whole photo is opened, converted, copied, cropped or turned."""
    found: Counter[str] = Counter()
    real_open = Image.open

    def opened(*args: Any, **options: Any) -> Image.Image:
        found["open"] += 1
        return real_open(*args, **options)

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Image.Image, *args: Any, **options: Any) -> Any:
            result = real(self, *args, **options)
            if result.width * result.height >= PIXELS:
                found[name] += 1
            return result

        return counted

    monkeypatch.setattr(Image, "open", opened)
    for name in ("convert", "copy", "crop", "transpose"):
        monkeypatch.setattr(Image.Image, name, counting(name, getattr(Image.Image, name)))
    return found


@pytest.mark.parametrize("name", ["imagenet", "emoji-clip", "cifar10-simclr"])
def test_a_file_is_opened_once_and_its_pixels_are_copied_once(name: str, photo: Path, calls: Counter[str]) -> None:
    encoder = load(name, "cpu")
    encoder.encode_image([photo])
    assert calls["open"] == 1 and sum(calls.values()) <= 2


def test_an_open_rgb_image_is_not_copied_at_all(photo: Path, calls: Counter[str]) -> None:
    image = open_image(photo)
    assert open_image(image) is image
    calls.clear()
    SimclrEncoder.from_pretrained("cifar10-simclr", "cpu").encode_image([image])
    Captioner.from_pretrained("emoji-captioner", "cpu").caption([image])
    assert sum(calls.values()) == 0


def test_features_of_a_source_open_an_image_once_for_its_digest_and_once_to_encode_it(
    photo: Path, calls: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    source, encoder = open_source(photo.parent), load("cifar10-simclr", "cpu")
    calls.clear()
    source_vectors(source, encoder)
    assert calls["open"] == 2
    calls.clear()
    source_vectors(source, encoder)
    assert calls["open"] == 1
