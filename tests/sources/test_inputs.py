"""Images that are named on a command line: files, directories, and every other source."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from opsin.errors import DataError
from opsin.images.opening import ImageReader
from opsin.sources.opening import list_inputs
from tests.conftest import MakeImage, MakeParquet, encoded, image_cell


def test_all_kinds_in_the_order_of_their_names(
    make_image: MakeImage, make_parquet: MakeParquet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    first, _ = make_image("one.png", (1, 0, 0)), make_image("folder/train/cat/two.png", (2, 0, 0))
    cells = [image_cell((3, 0, 0)), {"bytes": b"no image", "path": None}]
    parquet = make_parquet("rows.parquet", {"image": cells})
    make_parquet("hub/data/train.parquet", {"image": [image_cell((4, 0, 0))]})
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("cat/five.png", encoded((5, 0, 0)))
    (tmp_path / "list.csv").write_text("file\none.png\n")
    refs = [first, tmp_path / "folder", parquet, tmp_path / "hub", tmp_path / "some.zip", tmp_path / "list.csv"]
    reader = ImageReader(list_inputs(refs))
    assert [image.getpixel((0, 0))[0] for image in reader] == [1, 2, 3, 4, 5, 1]  # type: ignore[index]
    assert [str(name).removeprefix(f"{tmp_path}/") for name in reader.read] == [
        "one.png",
        "folder/train/cat/two.png",
        "rows.parquet/rows/000000",
        "hub/train/000000",
        "some.zip/cat/five.png",
        "list.csv/one.png",
    ]
    assert [row.id for row in reader.skipped] == [f"{parquet}/rows/000001"]
    assert reader.read[4].stem == "five"


def test_named_sources(emoji_cache: Path) -> None:
    inputs = list_inputs(["emoji"])
    assert len(inputs) > 1000
    assert str(inputs[0]).startswith("emoji/")
    assert next(iter(ImageReader(inputs[:1]))).mode == "RGB"


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        list_inputs([tmp_path / "none.png"])
    with pytest.raises(DataError, match="there is no directory"):
        list_inputs([f"coco:{tmp_path / 'none'}"])
