"""`captions.csv`, and what every table of captions has in common; `metadata.jsonl` itself is in test_folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsin.data.captioned import with_captions
from opsin.errors import DataError
from opsin.sources.folders import folder_source
from tests.conftest import MakeImage


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


def test_several_columns_of_captions_are_all_taken(folder: Path) -> None:
    write(folder / "captions.csv", "image,Caption_10,caption2,title,CAPTION\na.png,three,two,other,one\nb.png,,x,,\n")
    assert captions_of(folder) == {"a.png": ("one", "two", "three"), "b.png": ("x",), "c.png": ()}
    (folder / "captions.csv").unlink()
    write(folder / "metadata.jsonl", '{"file_name": "c.png", "Caption1": "one", "caption2": ["two", "three"]}')
    assert captions_of(folder)["c.png"] == ("one", "two", "three")


def test_images_named_by_absolute_paths(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(folder)
    rows = [f"{folder / 'a.png'},one", f"{tmp_path / 'link' / 'b.png'},two", "./c.png,three", "/elsewhere/c.png,no"]
    write(folder / "captions.csv", "\n".join(["file,caption", *rows]))
    monkeypatch.chdir(folder.parent)
    source = folder_source(Path(folder.name), "folder")
    assert source.captions == [("one",), ("two",), ("three",)]
    assert [row.id for row in source.skipped] == ["/elsewhere/c.png"]


def test_layout_of_flickr8k(make_image: MakeImage, tmp_path: Path) -> None:
    """Images in a folder beside `captions.txt`, which names them without it."""
    for name in ("Images/1.jpg", "Images/2.jpg", "more/2.jpg"):
        make_image(name)
    write(tmp_path / "captions.txt", 'image,caption\n1.jpg,A dog runs .\n1.jpg,"A dog , again ."\n2.jpg,which one\n')
    assert captions_of(tmp_path) == {
        "Images/1.jpg": ("A dog runs .", "A dog , again ."),
        "Images/2.jpg": (),
        "more/2.jpg": (),
    }
    assert [row.id for row in folder_source(tmp_path, "folder").skipped] == ["2.jpg"]


def test_captions_txt_that_is_no_table_is_a_text_file(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("captions.png")
    write(tmp_path / "captions.txt", "an image, a caption\n")
    assert captions_of(tmp_path) == {"captions.png": ("an image, a caption",)}


def test_files_that_fit_no_layout_are_named(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("images/1.jpg")
    with pytest.raises(DataError, match="coco:DIR$"):
        with_captions(folder_source(tmp_path, "folder"))
    for name in ("labels.csv", "texts/1.txt", "texts/2.txt", "texts/3.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "x")
    seen = r"labels\.csv, texts/1\.txt, texts/2\.txt and 1 more file are there, but in none of these layouts"
    with pytest.raises(DataError, match=seen):
        with_captions(folder_source(tmp_path, "folder"))


def test_csv_of_split_and_class_folders(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/cat/1.png")
    make_image("test/cat/1.png")
    write(tmp_path / "train" / "captions.csv", "file,caption\ncat/1.png,train\n")
    write(tmp_path / "test" / "captions.csv", "file,caption\ncat/1.png,test\n")
    assert captions_of(tmp_path) == {"train/cat/1.png": ("train",), "test/cat/1.png": ("test",)}


def test_names_are_found_in_either_spelling_and_with_blanks_around(make_image: MakeImage, tmp_path: Path) -> None:
    composed, decomposed = "\u00e9.png", "e\u0301.png"
    for name in (decomposed, " own.png", "plain.png"):
        make_image(name)
    write(tmp_path / "captions.csv", f"image,caption\n{composed},one\n own.png,two\n plain.png ,three\n")
    assert captions_of(tmp_path) == {decomposed: ("one",), " own.png": ("two",), "plain.png": ("three",)}


def test_blank_captions_of_json_lines_count_as_none(folder: Path) -> None:
    write(folder / "metadata.jsonl", '{"file_name": "a.png", "captions": [" one ", " ", ""]}')
    assert captions_of(folder) == {"a.png": ("one",), "b.png": (), "c.png": ()}


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
        ("image\na.png\n", "no column 'captions' or 'caption' or 'text' or 'title'; its columns are image$"),
        ("name,caption\na.png,see\n", "no column 'file_name' or"),
        (" \n", r"captions\.csv is empty; its first line names the columns"),
        ("file,caption\na.png,red, green\n", r"captions\.csv, line 2: 3 fields, and the first line names 2"),
        ("file,caption\na.png\n", "line 2: 1 field, and the first line names 2"),
        ('file,caption\na.png,"open\n', "line 2: a double quote is opened and never closed"),
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


def test_a_caption_file_ends_its_lines_at_newlines_only(folder: Path) -> None:
    (folder / "a.txt").write_bytes("one\u2028line\r\ntwo\x0c\x85words\n\n".encode())
    assert captions_of(folder)["a.png"] == ("one\u2028line", "two\x0c\x85words")


def test_caption_files_in_another_encoding_are_named_as_the_reason(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_bytes("Käfer".encode("latin-1"))
    with pytest.raises(DataError, match=r"none of the 3 images .*; left out: a\.txt \(is not UTF-8 text\)"):
        with_captions(folder_source(folder, "folder"))
