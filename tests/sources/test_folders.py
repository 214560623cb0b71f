"""Directories of images: which layout is which, and what is left out of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from opsin.errors import DataError
from opsin.sources.folders import folder_source
from opsin.sources.image_source import ImageSource
from tests.conftest import MakeImage


def opened(directory: Path) -> ImageSource:
    return folder_source(directory, "folder")


def class_of(source: ImageSource) -> dict[str, str]:
    assert source.labels is not None
    assert source.class_names is not None
    return {name: source.class_names[label] for name, label in zip(source.ids, source.labels, strict=True)}


def split_of(source: ImageSource) -> dict[str, str]:
    assert source.splits is not None
    return dict(zip(source.ids, map(str, source.splits), strict=True))


def reasons(source: ImageSource) -> dict[str, str]:
    return {row.id: row.reason for row in source.skipped}


def test_class_folders(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("dog/Ünïcode 犬.png", (1, 2, 3))
    make_image("cat/deep/er/2.PNG")
    make_image("cat/1.JPG")
    make_image(".thumbnails/cat/1.png")
    make_image("cat/.hidden.png")
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert class_of(source) == {"cat/1.JPG": "cat", "cat/deep/er/2.PNG": "cat", "dog/Ünïcode 犬.png": "dog"}
    assert source.load(2).getpixel((0, 0)) == (1, 2, 3)
    assert source.splits is None
    assert source.captions is None
    assert source.skipped == []


def test_one_class(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("cat/1.png")
    assert opened(tmp_path).class_names == ("cat",)


def test_class_folder_without_an_image_is_listed_and_no_class(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("cat/1.png")
    (tmp_path / "dog" / "empty").mkdir(parents=True)
    (tmp_path / "dog" / "notes.txt").write_text("none yet")
    source = opened(tmp_path)
    assert source.class_names == ("cat",)
    assert reasons(source) == {"dog": "is a class folder without an image"}


def test_images_beside_class_folders_are_listed(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("cat/1.png")
    make_image("stray.png")
    source = opened(tmp_path)
    assert source.ids == ["cat/1.png"]
    assert reasons(source) == {"stray.png": "lies outside the class folders"}


def test_images_in_formats_that_are_not_read_are_counted(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("cat/1.NEF", "cat/2.nef", "cat/.3.nef", "dog/1.jxl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"no image was found.*; \*\.nef: 2 images in a format that is not read"):
        opened(tmp_path)
    make_image("cat/4.jpg").rename(tmp_path / "cat" / "4.jfif")
    source = opened(tmp_path)
    assert source.ids == ["cat/4.jfif"]
    assert {name: reason[:8] for name, reason in reasons(source).items()} == {
        "dog": "is a cla",
        "*.jxl": "1 image ",
        "*.nef": "2 images",
    }


def test_flat(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", ".c.png"):
        make_image(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("not an image")
    source = opened(tmp_path)
    assert source.ids == ["a.jpg", "b.png"]
    assert source.labels is None
    assert source.class_names is None
    assert source.captions is None


@pytest.mark.parametrize("folders", [(), ("cat", "dog"), ("train", "test"), ("train/cat",)])
def test_no_image_anywhere_says_what_was_tried(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=r"tried train/CLASS/\*, CLASS/\*, images directly inside, and \*\.parquet"):
        opened(tmp_path)


# -------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(("validation", "train"), [("val", "train"), ("valid", "Training"), ("validation", "train")])
def test_split_folders_share_their_classes(make_image: MakeImage, tmp_path: Path, validation: str, train: str) -> None:
    make_image(f"{train}/cat/1.png")
    make_image(f"{train}/dog/1.png")
    make_image(f"{validation}/dog/2.png")
    make_image("test/eel/x/3.png")
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog", "eel")
    assert split_of(source) == {
        f"{train}/cat/1.png": "train",
        f"{train}/dog/1.png": "train",
        f"{validation}/dog/2.png": "val",
        "test/eel/x/3.png": "test",
    }
    assert class_of(source)["test/eel/x/3.png"] == "eel"
    assert source.split("val").ids == [f"{validation}/dog/2.png"]


def test_flat_split_folders(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/1.png")
    make_image("test/2.png")
    source = opened(tmp_path)
    assert split_of(source) == {"train/1.png": "train", "test/2.png": "test"}
    assert source.labels is None


def test_train_is_a_class_among_other_classes(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("bus", "ship", "train"):
        make_image(f"{name}/1.png")
    source = opened(tmp_path)
    assert source.class_names == ("bus", "ship", "train")
    assert source.splits is None


def test_lone_split_folder_beside_one_without_images(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/cat/1.png")
    (tmp_path / "annotations").mkdir()
    source = opened(tmp_path)
    assert class_of(source) == {"train/cat/1.png": "cat"}
    assert split_of(source) == {"train/cat/1.png": "train"}


def test_what_lies_beside_splits_is_listed(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/cat/1.png")
    make_image("train/stray.png")
    make_image("val/cat/1.png")
    make_image("extra/1.png")
    make_image("top.png")
    (tmp_path / "val" / "dog").mkdir()
    source = opened(tmp_path)
    assert source.ids == ["train/cat/1.png", "val/cat/1.png"]
    assert reasons(source) == {
        "train/stray.png": "lies outside the class folders",
        "val/dog": "is a class folder without an image",
        "extra": "lies outside train, val",
        "top.png": "lies outside train, val",
    }


def test_split_without_classes_beside_one_with_classes_is_left_out(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/cat/1.png")
    make_image("test/1.png")
    make_image("test/2.png")
    source = opened(tmp_path)
    assert source.ids == ["train/cat/1.png"]
    assert "its 2 images" in reasons(source)["test"]


# -------------------------------------------------------------------------------------------- captions


def test_sidecar_captions(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        make_image(name)
    (tmp_path / "a.txt").write_text("﻿a red square\n\n  ein Quadrät  \n", encoding="utf-8")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9\n")
    source = opened(tmp_path)
    assert source.captions == [("a red square", "ein Quadrät"), (), ()]
    assert reasons(source) == {"c.txt": "is not UTF-8 text"}


def test_sidecar_captions_in_folders(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("batch1/000.png", "batch1/deep/001.png", "batch2/000.jpg"):
        make_image(name)
    (tmp_path / "batch1" / "000.txt").write_text("one")
    (tmp_path / "batch1" / "deep" / "001.txt").write_text("two")
    (tmp_path / "batch1" / "notes.txt").write_text("not a caption")
    source = opened(tmp_path)
    assert source.captions is not None
    assert dict(zip(source.ids, source.captions, strict=True)) == {
        "batch1/000.png": ("one",),
        "batch1/deep/001.png": ("two",),
        "batch2/000.jpg": (),
    }
    assert source.class_names == ("batch1", "batch2")
    assert source.skipped == []


def write_metadata(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + "\n", encoding="utf-8")


def test_metadata_captions(make_image: MakeImage, tmp_path: Path) -> None:
    for name in "abcde":
        make_image(f"{name}.png")
    write_metadata(
        tmp_path / "metadata.jsonl",
        {"file_name": "b.png", "text": "bé second line"},
        {"file_name": "a.png", "captions": ["one", "two"]},
        {"file_name": "c.png", "caption": "see", "width": 8},
        {"file_name": "c.png", "text": "again"},
        {"file_name": "d.png", "text": None},
        {"file_name": "gone.png", "text": "not there"},
    )
    assert opened(tmp_path).captions == [
        ("one", "two"),
        ("bé second line",),
        ("see", "again"),
        (),
        (),
    ]


def test_metadata_of_split_folders_and_of_subfolders(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("splits/train/1.png")
    make_image("splits/test/1.png")
    write_metadata(tmp_path / "splits" / "train" / "metadata.jsonl", {"file_name": "1.png", "text": "train"})
    write_metadata(tmp_path / "splits" / "test" / "metadata.jsonl", {"file_name": "1.png", "text": "test"})
    source = opened(tmp_path / "splits")
    assert source.captions is not None
    assert dict(zip(source.ids, source.captions, strict=True)) == {"train/1.png": ("train",), "test/1.png": ("test",)}
    make_image("below/images/1.png")
    write_metadata(tmp_path / "below" / "metadata.jsonl", {"file_name": "images/1.png", "text": "below"})
    assert opened(tmp_path / "below").captions == [("below",)]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        '{"text": "no file"}',
        '{"file_name": ["a.png"], "text": "list"}',
        '{"file_name": "a.png", "text": 3}',
    ],
)
def test_bad_line_of_metadata_is_named(make_image: MakeImage, tmp_path: Path, line: str) -> None:
    make_image("a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "fine"}\n' + line)
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2: expected a JSON object with `file_name`"):
        opened(tmp_path)


def test_metadata_that_fits_no_image(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("a.png")
    write_metadata(tmp_path / "metadata.jsonl", {"file_name": "b.png", "text": "other"})
    with pytest.raises(DataError, match=r"names no image that is there; for example 'b\.png'"):
        opened(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="is not UTF-8"):
        opened(tmp_path)


# -------------------------------------------------------------------------------------------- links


def test_links_to_folders_and_files_are_followed(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("store/cats/1.png")
    file = make_image("store/2.png")
    (tmp_path / "data" / "dog").mkdir(parents=True)
    os.symlink(tmp_path / "store" / "cats", tmp_path / "data" / "cat")
    os.symlink(file, tmp_path / "data" / "dog" / "2.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "data" / "dog" / "broken.png")
    assert class_of(opened(tmp_path / "data")) == {"cat/1.png": "cat", "dog/2.png": "dog"}


def test_links_that_lead_back_count_nothing_twice(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("data/cat/1.png")
    os.symlink(tmp_path / "data", tmp_path / "data" / "self")
    os.symlink(tmp_path, tmp_path / "data" / "parent")
    os.symlink(tmp_path / "data", tmp_path / "data" / "cat" / "up")
    os.symlink(tmp_path / "data" / "ring", tmp_path / "data" / "ring")
    source = opened(tmp_path / "data")
    assert source.ids == ["cat/1.png"]
    assert source.class_names == ("cat",)


def test_class_names_that_are_no_text(make_image: MakeImage, tmp_path: Path) -> None:
    """A model keeps the names of its classes, and a file of text has no room for other bytes."""
    make_image("a/1.png")
    latin = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / latin).mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / latin / "1.png")
    make_image("zoo\n/1.png")
    source = folder_source(tmp_path, "photos")
    assert source.class_names == ("a", "caf\\udce9", "zoo\\n")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2]
    assert "".join(source.class_names).encode()
    make_image("caf\\udce9/1.png")
    with pytest.raises(DataError, match="two class folders of .* are called .*caf.*udce9"):
        folder_source(tmp_path, "photos")
