"""A folder of colours and its index."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsin.search.index import ImageIndex
from tests.clip.conftest import colour_run, folder  # noqa: F401 (fixtures)
from tests.search.colours import ColourEncoder, paint, paint_many


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    paint_many(tmp_path / "photos", 30)
    paint(tmp_path / "photos" / "holiday" / "red.png", (255, 0, 0))
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path: Path, photos: Path) -> ImageIndex:
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(photos)
    return index
