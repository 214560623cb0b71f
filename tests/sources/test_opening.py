"""What every source has in common, and which string opens which."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.errors import DataError
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import is_same_source, open_source
from tests.conftest import MakeImage, MakeParquet, image_cell


@pytest.fixture
def source() -> ImageSource:
    """Five images whose red value is their row."""
    return ImageSource(
        name="five",
        ids=[f"id{row}" for row in range(5)],
        loader=lambda row: Image.new("RGB", (2, 2), (row, 0, 0)),
        rows=np.arange(5),
        labels=np.array([0, 1, 0, 1, 0]),
        class_names=("even", "odd"),
        captions=[(f"number {row}",) for row in range(5)],
        splits=np.array(["train", "train", "val", "test", "train"]),
        groups=np.array(list("aabbc")),
        metadata={"square": np.arange(5) ** 2},
    )


def test_sources_can_be_sent_to_worker_processes(
    make_image: MakeImage, make_parquet: MakeParquet, tmp_path: Path, emoji: ImageSource
) -> None:
    """Where processes are not forked (macOS, Windows), a DataLoader pickles its data set."""
    make_image("folder/a/1.png", "red")
    make_parquet("table.parquet", {"image": [image_cell("blue")]})
    for source in (open_source(tmp_path / "folder"), open_source(tmp_path / "table.parquet"), emoji):
        sent = pickle.loads(pickle.dumps(source))
        assert sent.load(0).tobytes() == source.load(0).tobytes()


def rows_of(source: ImageSource) -> list[tuple[object, ...]]:
    """Everything that a source knows, row by row; `load` must agree with the rest."""
    assert source.labels is not None
    assert source.captions is not None
    assert source.splits is not None
    assert source.groups is not None
    return [
        (
            source.load(row).getpixel((0, 0)),
            source.ids[row],
            int(source.labels[row]),
            source.captions[row],
            str(source.splits[row]),
            str(source.groups[row]),
            int(source.metadata["square"][row]),
        )
        for row in range(len(source))
    ]


def test_select_keeps_everything_aligned(source: ImageSource) -> None:
    everything = rows_of(source)
    chosen = source.select(np.array([3, 0, 3]))
    assert rows_of(chosen) == [everything[row] for row in (3, 0, 3)]
    assert rows_of(chosen.select(np.array([1]))) == [everything[0]]
    assert len(source.select(np.array([]))) == 0
    assert rows_of(source) == everything


def test_select_by_mask(source: ImageSource) -> None:
    assert source.select(np.array([False, True, False, False, True])).ids == ["id1", "id4"]


def test_split(source: ImageSource) -> None:
    assert source.split("train").ids == ["id0", "id1", "id4"]
    assert source.split("test").ids == ["id3"]
    with pytest.raises(DataError, match="no split 'val'; it has train"):
        source.split("train").split("val")


def test_relabel(source: ImageSource) -> None:
    renamed = source.relabel(np.zeros(5, dtype=np.int64), ("all",))
    assert renamed.class_names == ("all",)
    assert renamed.ids == source.ids
    assert source.class_names == ("even", "odd")


def test_names_open_their_source(make_image: MakeImage, make_parquet: MakeParquet, tmp_path: Path) -> None:
    make_image("folder/cat/1.png")
    make_parquet("many/train.parquet", {"image": [image_cell()]})
    file = make_parquet("one.PARQUET", {"image": [image_cell()]})
    assert open_source(tmp_path / "folder").class_names == ("cat",)
    assert open_source(str(tmp_path / "many")).ids == ["train/000000"]
    assert open_source(file).ids == ["one/000000"]
    assert open_source(str(file)).name == str(file)


def test_home_directory_is_understood(make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image("photos/1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("~/photos").ids == ["1.png"]
    with pytest.raises(DataError, match=f"no CIFAR-10 in {tmp_path / 'photos'}"):
        open_source("cifar10:~/photos")


@pytest.mark.parametrize(
    ("ref", "near"), [("emojis", "emoji"), ("cifar-10", "cifar10"), ("{here}/fotos", "{here}/photos")]
)
def test_unknown_source_names_the_nearest(tmp_path: Path, ref: str, near: str) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="there is no data source") as caught:
        open_source(ref.format(here=tmp_path))
    assert f"did you mean {near.format(here=tmp_path)!r}?" in str(caught.value)


def test_unknown_source_without_a_near_name_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give a directory, a \.csv, .*, emoji, cifar10:DIR, coco:DIR, or, .* course-"):
        open_source(tmp_path / "x" / "y")


def test_empty_name_is_not_the_current_directory(
    make_image: MakeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image("1.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is empty"):
        open_source("")


def test_file_of_another_kind(make_image: MakeImage) -> None:
    photo = make_image("photo.png")
    with pytest.raises(DataError, match=r"no table, parquet file or archive"):
        open_source(photo)
    table = photo.with_name("captions.txt")
    table.write_text("file,caption\nphoto.png,see\n")
    with pytest.raises(DataError, match=f"captions.txt is no source by itself; give its directory, {table.parent}$"):
        open_source(table)


def test_name_that_is_too_long_for_a_file() -> None:
    with pytest.raises(DataError, match=r"^a{200} cannot be read: File name too long$"):
        open_source("a" * 5000)


def test_same_source_in_other_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else training images would be scored as unseen ones."""
    (tmp_path / "cap").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = ("cap", "cap/", "~/cap", str(tmp_path / "cap"))
    for first in ("coco:cap", *ways):
        for second in (*ways, *(f"coco:{way}" for way in ways)):
            assert is_same_source(first, second) and is_same_source(second, first)
    for other in ("", "emoji", "coco:", "coco:other", "~/other", "coco:gone", "cap:cap", "."):
        assert not is_same_source("coco:cap", other)
    assert not is_same_source("coco:gone", "gone")
    assert is_same_source("emoji", "emoji")
    (tmp_path / "emoji").mkdir()
    assert not is_same_source("emoji", "./emoji")
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "cifar10").mkdir(parents=True)
    assert is_same_source("cifar10", "cifar10:cache/cifar10")
    assert not is_same_source("cifar10", "cifar10:cap")


def test_link_to_itself_is_no_source(tmp_path: Path) -> None:
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(DataError, match="there is no data source"):
        open_source(tmp_path / "loop")
