"""Listing image files: what no person means as data, what opsin wrote itself, and what is no file at all."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from opsin.checkpoint import save_pretrained
from opsin.errors import DataError
from opsin.files import open_regular
from opsin.images.opening import open_image
from opsin.pictures import save_figure
from opsin.search.collection import list_folder
from opsin.search.results import Hit, SearchResults, write_contact_sheet
from opsin.sources.folders import folder_source
from opsin.sources.listing import Listing, find_images, list_images
from opsin.sources.opening import open_source
from opsin.sources.outputs import is_own_image, png_info
from opsin.training.run_directory import RunDirectory
from tests.conftest import MakeImage


def listed(directory: Path) -> list[str]:
    """The ids of a folder, which all that lists images must agree on."""
    found = [path.relative_to(directory).as_posix() for path in find_images(directory)]
    assert [entry.id for entry in list_folder(directory).entries] == found
    return found


@pytest.mark.parametrize(
    "folder",
    [
        "@eaDir",
        "cat/@eaDir/1.png",
        "#recycle",
        "$RECYCLE.BIN",
        "__MACOSX/cat",
        "System Volume Information",
        ".Trash-1000",
    ],
)
def test_folders_that_a_device_fills(make_image: MakeImage, tmp_path: Path, folder: str) -> None:
    make_image("cat/1.png")
    make_image("dog/1.png")
    make_image(f"{folder}/x.png")
    assert listed(tmp_path) == ["cat/1.png", "dog/1.png"]
    assert folder_source(tmp_path, "x").class_names == ("cat", "dog")
    assert [path.name for path in find_images(tmp_path / folder)] == ["x.png"]  # named by a person


def figure_of_opsin(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(Figure(figsize=(1, 1), dpi=20), path)


def test_figures_and_generated_images_are_no_data_beside_others(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("photo.png")
    figure_of_opsin(tmp_path / "looks" / "0001-photo.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "grid-1.png", pnginfo=png_info())
    assert listed(tmp_path) == ["photo.png"]
    source = folder_source(tmp_path, "x")
    assert source.ids == ["photo.png"]
    assert source.labels is None
    [row] = source.skipped
    assert row.id == "grid-1.png, looks/0001-photo.png"
    assert row.reason == "was written by opsin and is no data (2 in all)"


def test_a_folder_of_nothing_but_images_by_opsin_is_taken(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.png"):
        figure_of_opsin(tmp_path / name)
    assert listed(tmp_path) == ["cat/1.png", "cat/2.png"]
    assert list_images([tmp_path / "cat"]) == [tmp_path / "cat" / "1.png", tmp_path / "cat" / "2.png"]
    assert folder_source(tmp_path, "x").class_names == ("cat",)


def test_images_by_others_are_not_taken_for_opsins(make_image: MakeImage, tmp_path: Path) -> None:
    Figure(figsize=(1, 1), dpi=20).savefig(tmp_path / "plot.png")
    (tmp_path / "empty.png").write_bytes(b"")
    assert not is_own_image(make_image("photo.png"))
    assert not is_own_image(tmp_path / "gone.png")
    assert listed(tmp_path) == ["empty.png", "photo.png", "plot.png"]


def a_run(path: Path) -> None:
    RunDirectory(path).record({"data": "x"})


def a_killed_run(path: Path) -> None:
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.json").write_text("{}")


def a_model(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_pretrained(path, kind="x", config={}, tensors={}, card="x")


def an_index(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "index.sqlite3").write_bytes(b"")


@pytest.mark.parametrize("make", [a_run, a_killed_run, a_model, an_index])
@pytest.mark.parametrize("place", ["out", "cat/out"])
def test_directories_that_opsin_writes_are_no_classes(
    make_image: MakeImage, tmp_path: Path, make: object, place: str
) -> None:
    assert callable(make)
    make(tmp_path / place)
    make_image(f"{place}/samples/any.png")
    make_image("cat/1.png")
    make_image("dog/1.png")
    assert listed(tmp_path) == ["cat/1.png", "dog/1.png"]
    source = folder_source(tmp_path, "x")
    assert source.class_names == ("cat", "dog")
    assert [(row.id, row.reason) for row in source.skipped] == [(place, "was written by opsin and is no data")]


def test_samples_of_a_run_without_its_other_files(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("0.png", "run/samples/step-1.png", "run/samples/raw/step-10.png", "samples/step-by-step.png"):
        make_image(name)
    assert listed(tmp_path) == ["0.png", "samples/step-by-step.png"]


@pytest.fixture
def impatient() -> Iterator[None]:
    """What waits for longer than ten seconds fails."""

    def stop(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
def test_what_is_no_regular_file_is_skipped_and_waited_for_by_nobody(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.png"))
        assert listed(tmp_path) == ["1.png"]
        assert [row.id for row in list_folder(tmp_path).skipped] == ["pipe.png", "socket.png", "zero.png"]
        source = folder_source(tmp_path, "x")
        assert source.ids == ["1.png"]
        assert source.skipped[0].id == "pipe.png, socket.png, zero.png"
        assert source.skipped[0].reason == "is no regular file (3 in all)"
        for name in ("pipe.png", "socket.png", "zero.png"):
            with pytest.raises(DataError, match=r"\.png cannot be read: is no regular file"):
                open_image(tmp_path / name)
            with pytest.raises(OSError, match="is no regular file"):
                open_regular(tmp_path / name)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "name", ["1.txt", "metadata.jsonl", "captions.csv", "labels.csv", "x.parquet", "data/x.parquet", "captions_x.json"]
)
def test_texts_and_tables_that_are_no_regular_files_are_not_read(
    make_image: MakeImage, tmp_path: Path, name: str
) -> None:
    make_image("1.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    source = open_source(tmp_path)
    assert (source.ids, source.captions, source.labels) == (["1.png"], None, None)
    with pytest.raises(DataError, match="no COCO captions"):
        open_source(f"coco:{tmp_path}")
    with pytest.raises(DataError, match=f"{name} is no regular file"):
        open_source(tmp_path / name)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_place_of_a_found_image_takes_the_place_of_a_picture(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    collection = list_folder(tmp_path)
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    hit = Hit("1.png", tmp_path / "1.png", 0.5, rank=1, missing=False)
    write_contact_sheet(tmp_path / "sheet.html", "x", SearchResults((hit,), True, 1.0, 1), collection.image)
    assert "1.png cannot be read: is no regular file" in (tmp_path / "sheet.html").read_text()
    with pytest.raises(DataError, match=r"1\.png cannot be read: is no regular file"):
        collection.content(collection.entries[0])


def test_links_are_followed_to_files_and_noted_where_they_are_not(make_image: MakeImage, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_image("data/cat/1.png")
    make_image("elsewhere/2.png")
    os.symlink(tmp_path / "elsewhere" / "2.png", data / "cat" / "2.png")
    os.symlink(tmp_path / "elsewhere", data / "cat" / "more")
    os.symlink(tmp_path / "gone", data / "cat" / "gone")
    os.symlink(data, data / "cat" / "up")
    listing = Listing(data)
    assert sorted(file.id for file in listing.files()) == ["cat/1.png", "cat/2.png"]
    assert listing.links == ["cat/more"]
    source = folder_source(data, "x")
    assert {row.id: row.reason for row in source.skipped} == {
        "cat/gone": "cannot be read: No such file or directory",
        "cat/more": "is a link to a folder, which is not followed",
    }
    # A search shows what it finds, so that it stays inside.
    assert [entry.id for entry in list_folder(data).entries] == ["cat/1.png"]
    assert [row.id for row in list_folder(data).skipped] == ["cat/2.png", "cat/gone", "cat/more"]


def test_very_deep_folders(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(700):
        deep = deep / "d"
    here = os.getcwd()
    try:
        os.makedirs(deep)
        os.chdir(deep)
        Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).save("x.png")
    finally:
        os.chdir(here)
    assert len(find_images(tmp_path)) == 1


def test_images_without_the_suffix_of_one_are_named(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("a.png")
    for name in ("IMG_0001", "b.png ", "c.jpg."):
        make_image("x.png").rename(tmp_path / name)
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "empty").write_bytes(b"")
    source = open_source(tmp_path)
    assert source.ids == ["a.png"]
    assert [(row.id, row.reason) for row in source.skipped] == [
        ("IMG_0001, b.png , c.jpg.", "is an image whose name has no suffix of one; rename it (3 in all)")
    ]
