"""`captions.csv`, and what every table of captions has in common; `metadata.jsonl` itself is in test_folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsin.data.folders import folder_source
from opsin.errors import DataError

from .conftest import MakeImage


def captions_of(directory: Path) -> dict[str, tuple[str, ...]]:
    source = folder_source(directory, "folder")
    assert source.captions is not None
    return dict(zip(source.ids, source.captions, strict=True))


@pytest.fixture
def folder(make_image: MakeImage, tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        make_image(name)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_csv_with_several_captions_an_image(folder: Path) -> None:
    write(
        folder / "captions.csv",
        '\ufeffimage,caption\r\nb.png,"red, blue and ""green"""\r\na.png,ein Käfer 🐞\r\nb.png,two\nlines\r\n'.replace(
            "two\nlines", '"two\nlines"'
        ),
    )
    assert captions_of(folder) == {
        "a.png": ("ein Käfer 🐞",),
        "b.png": ('red, blue and "green"', "two\nlines"),
        "c.png": (),
    }


@pytest.mark.parametrize("header", ["file_name,text", "Caption_ID, FILE , Caption", "split,text,image"])
def test_columns_may_have_other_names_and_places(folder: Path, header: str) -> None:
    row = {"file_name": "c.png", "file": "c.png", "image": "c.png", "text": "see", "caption": "see"}
    cells = [row.get(name.strip().lower(), "other") for name in header.split(",")]
    write(folder / "captions.csv", header + "\n" + ",".join(cells) + "\n\n")
    assert captions_of(folder)["c.png"] == ("see",)


def test_csv_of_split_and_class_folders(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/cat/1.png")
    make_image("test/cat/1.png")
    write(tmp_path / "train" / "captions.csv", "file,caption\ncat/1.png,train\n")
    write(tmp_path / "test" / "captions.csv", "file,caption\ncat/1.png,test\n")
    assert captions_of(tmp_path) == {"train/cat/1.png": ("train",), "test/cat/1.png": ("test",)}


def test_tables_add_up(folder: Path) -> None:
    write(folder / "metadata.jsonl", '{"file_name": "a.png", "text": "json"}')
    write(folder / "captions.csv", "file,caption\na.png,csv\n")
    write(folder / "a.txt", "not read: tables come first")
    assert captions_of(folder)["a.png"] == ("json", "csv")


def test_missing_images_are_listed_once(folder: Path) -> None:
    write(folder / "captions.csv", "file,caption\na.png,one\ngone.png,two\ngone.png,three\n")
    write(folder / "metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name": "lost.png", "text": "y"}')
    skipped = folder_source(folder, "folder").skipped
    assert {(row.id, row.reason) for row in skipped} == {
        ("gone.png", "named in captions.csv, but no such image is there"),
        ("lost.png", "named in metadata.jsonl, but no such image is there"),
    }


def test_empty_captions_count_as_none(folder: Path) -> None:
    write(folder / "captions.csv", "file,caption\na.png,  \nb.png,see\n")
    assert captions_of(folder) == {"a.png": (), "b.png": ("see",), "c.png": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,caption\nx.png,one\ny.png,two\n",
            r"names no image that is there; for example 'x\.png', 'y\.png' are not",
        ),
        ("image\na.png\n", "no column 'caption' or 'captions' or 'text' or 'title'; its columns are image"),
        ("name,caption\na.png,see\n", "no column 'file_name' or"),
        ("", "no column 'file_name' or"),
        ("file,caption\na.png,red, green\n", r"captions\.csv, line 2: 3 fields, and the first line names 2"),
        ("file,caption\na.png\n", "line 2: 1 fields"),
        ('file,caption\na.png,"open\n', "line 2: unexpected end of data"),
    ],
)
def test_bad_csv_is_named(folder: Path, text: str, message: str) -> None:
    write(folder / "captions.csv", text)
    with pytest.raises(DataError, match=message):
        folder_source(folder, "folder")


def test_csv_in_another_encoding(folder: Path) -> None:
    (folder / "captions.csv").write_bytes("file,caption\na.png,Käfer\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"captions\.csv is not UTF-8 text"):
        folder_source(folder, "folder")
