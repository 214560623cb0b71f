"""What the whole suite shares."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsin.sources.emoji import emoji_source
from opsin.sources.image_source import ImageSource

MakeImage = Callable[..., Path]
MakeParquet = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache directory for all tests and the processes they start, so that the emoji are drawn once. The user's own
    cache stays as it is."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSIN_CACHE", str(directory))
        yield directory


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """Write an image of one colour to a path below `tmp_path`, with its folders."""

    def make(name: str, colour: Any = "red", size: tuple[int, int] = (8, 8)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        return path

    return make


@pytest.fixture
def make_parquet(tmp_path: Path) -> MakeParquet:
    """Write columns to a parquet file below `tmp_path`."""

    def make(name: str, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(columns)
        pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)
        return path

    return make


@pytest.fixture(scope="session")
def emoji_cache(session_cache: Path) -> Path:
    """The cache directory of the session, in which the emoji have been drawn."""
    emoji_source()
    return session_cache


@pytest.fixture
def emoji(emoji_cache: Path) -> ImageSource:
    """The emoji source."""
    return emoji_source()


def encoded(colour: Any = "red", size: tuple[int, int] = (4, 4), format: str = "PNG") -> bytes:
    """The bytes of an image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def image_cell(colour: Any = "red", path: str | None = None) -> dict[str, Any]:
    """What Hugging Face image data sets have in the cells of their image column."""
    return {"bytes": encoded(colour), "path": path}
