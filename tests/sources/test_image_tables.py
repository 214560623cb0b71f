"""Labels, captions and splits from tables, and the many ways in which these name images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opsin.errors import DataError
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled, open_source
from tests.conftest import MakeImage

FOUR = "file,label\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n"


@pytest.fixture
def folder(make_image: MakeImage, tmp_path: Path) -> Path:
    for place, name in enumerate("abcd"):
        make_image(f"{name}.png", (place, 0, 0))
    return tmp_path


def labels_of(source: ImageSource) -> dict[str, str | None]:
    assert source.labels is not None and source.class_names is not None
    names = [None if label < 0 else source.class_names[label] for label in source.labels]
    return dict(zip(source.ids, names, strict=True))


EXPECTED = {"a.png": "cat", "b.png": "dog", "c.png": "cat", "d.png": "dog"}


@pytest.mark.parametrize(
    "text",
    [
        FOUR,
        FOUR.replace(",", ";"),
        FOUR.replace(",", "\t"),
        FOUR.replace(",", "|"),
        FOUR.replace("\n", "\r\n"),
        FOUR.replace("\n", "\r"),
        "\n\n" + FOUR.replace("\n", "\n\n"),
        FOUR.replace("file,label", '"File","Label"'),
        FOUR.replace("file,label", " FILE_NAME , Class "),
        FOUR.replace("file,label", "Image ID,breed"),
        FOUR.replace(".png", "").replace("file", "id"),
        FOUR.replace(".png", ".PNG").replace("a.", "A."),
        FOUR.replace("a.png,cat", " a.png , cat "),
        "label,id,width\ncat,a,1\ndog,b,2\ncat,c,3\ndog,d,4\n",
        "file,cat,dog\na.png,1,0\nb.png,0,1\nc.png,1,0\nd.png,0,1\n",
        "file,tags\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n",
        "sep=;\n" + FOUR.replace(",", ";"),
        FOUR.replace("a.png", "./a.png").replace("b.png", "C:\\Users\\me\\photos\\b.png"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_that_say_the_same(folder: Path, text: str, encoding: str) -> None:
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    assert labels_of(open_labelled(str(folder))) == EXPECTED
    assert labels_of(open_labelled(str(folder / "labels.csv"))) == EXPECTED


@pytest.mark.parametrize("name", ["labels.tsv", "Labels.CSV", "metadata.csv", "train.csv", "metadata.jsonl"])
def test_names_of_tables(folder: Path, name: str) -> None:
    rows = [line.split(",") for line in FOUR.splitlines()[1:]]
    lines = "\n".join(json.dumps({"file_name": file, "label": label}) for file, label in rows)
    (folder / name).write_text(lines if name.endswith("jsonl") else FOUR)
    assert labels_of(open_labelled(str(folder))) == EXPECTED


def test_each_label_stays_with_its_image(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\nd.png,d\nb.png,b\na.png,a\nc.png,c\n")
    source = open_labelled(str(folder))
    for row, name in enumerate(source.ids):
        assert labels_of(source)[name] == name[0]
        assert source.load(row).getpixel((0, 0)) == ("abcd".index(name[0]), 0, 0)


def test_folders_and_windows_separators(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("x/1.jpg", "y/1.jpg", "y/z/2.jpg"):
        make_image(name)
    (tmp_path / "labels.csv").write_text("path,label\nx\\1.jpg,one\ny\\1.jpg,two\n2,three\n")
    assert labels_of(open_labelled(str(tmp_path))) == {"x/1.jpg": "one", "y/1.jpg": "two", "y/z/2.jpg": "three"}


def test_decomposed_names_and_labels_are_one_class(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("cafe\u0301.png", "2.png", "3.png"):
        make_image(name)
    table = "file,label\ncaf\u00e9.png,Ze\u0301\n2.png,Z\u00e9\n3.png,other\n"
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    source = open_labelled(str(tmp_path))
    assert source.class_names is not None and len(source.class_names) == 2
    assert labels_of(source)["cafe\u0301.png"] == labels_of(source)["2.png"]


def test_exact_name_comes_before_one_in_another_case(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("a.png", "A.png", "b.png"):
        make_image(name)
    (tmp_path / "labels.csv").write_text("file,label\na.png,small\nA.png,large\nB.PNG,other\n")
    assert labels_of(open_labelled(str(tmp_path))) == {"a.png": "small", "A.png": "large", "b.png": "other"}


def test_names_of_no_image_and_of_several(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("x/1.png", "y/1.png", "x/2.png", "x/3.png"):
        make_image(name)
    (tmp_path / "labels.csv").write_text("file,label\n1.png,a\n2.png,a\n3.png,b\ngone.png,b\n")
    source = open_labelled(str(tmp_path))
    assert labels_of(source) == {"x/2.png": "a", "x/3.png": "b"}
    assert {(row.id, row.reason) for row in source.skipped[:2]} == {
        ("gone.png", "named in labels.csv, but no such image is there"),
        ("1.png", "named in labels.csv, but several such images are there"),
    }


def test_layout_of_kaggle(make_image: MakeImage, tmp_path: Path) -> None:
    """The same names in both folders; the test images have no label, and are used where none is needed."""
    for name in ("train_images/1.jpg", "train_images/2.jpg", "test_images/1.jpg", "test_images/9.jpg"):
        make_image(name)
    (tmp_path / "train.csv").write_text("id,breed\n1,collie\n2,husky\n")
    (tmp_path / "test.csv").write_text("id\n1\n9\n")
    (tmp_path / "sample_submission.csv").write_text("id,collie,husky\n1,0.5,0.5\n")
    source = open_labelled(str(tmp_path))
    assert labels_of(source) == {"train_images/1.jpg": "collie", "train_images/2.jpg": "husky"}
    assert source.skipped[-1].reason == "2 images without a label, for example test_images/1.jpg"
    everything = open_source(tmp_path)
    assert everything.splits is not None
    assert dict(zip(everything.ids, everything.splits.tolist(), strict=True)) == {
        "train_images/1.jpg": "train",
        "train_images/2.jpg": "train",
        "test_images/1.jpg": "test",
        "test_images/9.jpg": "test",
    }
    assert labels_of(open_labelled(str(tmp_path / "train.csv"))) == labels_of(source)


def test_column_of_splits(folder: Path) -> None:
    (folder / "labels.csv").write_text(
        "file,label,Split\na.png,x,Training\nb.png,y,validation\nc.png,y,test\nd.png,x,\n"
    )
    source = open_labelled(str(folder))
    assert source.splits is not None
    assert source.splits.tolist() == ["train", "val", "test", "train"]


def test_image_of_two_splits_is_held_out(folder: Path) -> None:
    (folder / "train.csv").write_text("file,label\na.png,x\nb.png,y\nc.png,x\n")
    (folder / "val.csv").write_text("file,label\nc.png,x\nd.png,y\n")
    source = open_labelled(str(folder))
    assert source.splits is not None
    assert source.splits.tolist() == ["train", "train", "val", "val"]
    assert ("c.png", "is of several splits, and held out") in [(row.id, row.reason) for row in source.skipped]


def test_images_of_a_table_elsewhere(make_image: MakeImage, tmp_path: Path) -> None:
    first, second = make_image("images/1.png"), make_image("more/2.png")
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists/all.csv"
    table.write_text(f"file,label\n../images/1.png,a\n{second},b\n")
    source = open_labelled(str(table))
    assert source.load(1).size == (8, 8)
    assert list(labels_of(source).values()) == ["a", "b"]
    assert first.exists()


# ----------------------------------------------------------------------------------- contradictions, several labels


def test_rows_that_disagree_give_no_label(folder: Path) -> None:
    (folder / "labels.csv").write_text(FOUR + "a.png,dog\nb.png,dog\nb.png,DOG\n")
    source = open_labelled(str(folder))
    assert labels_of(source) == {"b.png": "dog", "c.png": "cat", "d.png": "dog"}
    assert [row.id for row in source.skipped] == ["a.png (cat and dog)", str(folder)]
    assert "different labels" in source.skipped[0].reason


@pytest.mark.parametrize(
    "text",
    [
        "file,labels\na.png,cat|dog\nb.png,dog\nc.png,\nd.png,cat\n",
        "file,tags\na.png,cat;dog\nb.png,dog\nc.png,\nd.png,cat\n",
        'file,labels\na.png,"cat, dog"\nb.png,dog\nd.png,cat\n',
        "file,labels\na.png,cat\na.png,dog\nb.png,dog\nd.png,cat\n",
        "file,cat,dog\na.png,1,1\nb.png,0,1\nc.png,0,0\nd.png,1,0\n",
    ],
)
def test_several_labels_an_image(folder: Path, text: str) -> None:
    (folder / "labels.csv").write_text(text)
    source = open_source(folder)
    assert source.labels is None
    assert source.class_names == ("cat", "dog")
    assert source.label_sets == [(0, 1), (1,), (), (0,)]
    assert source.select(np.array([3, 0])).label_sets == [(0,), (0, 1)]
    with pytest.raises(
        DataError, match=r"1 of the 4 images of .* has several labels, for example a\.png; a model with"
    ):
        open_labelled(str(folder))


def test_lists_of_labels_in_json(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "labels": [3, 12]}\n{"file_name": "b.png"}')
    source = open_source(folder)
    assert (source.label_sets, source.class_names) == ([(0, 1), (), (), ()], ("3", "12"))


def test_label_with_a_comma(folder: Path) -> None:
    (folder / "labels.csv").write_text('file,label\na.png,"dog, small"\nb.png,"a ""cat"""\n')
    assert labels_of(open_labelled(str(folder))) == {"a.png": "dog, small", "b.png": 'a "cat"'}
    (folder / "labels.csv").write_text("file,label\na.png,dog, small\nb.png,cat\n")
    with pytest.raises(DataError, match="line 2: 3 fields, .* must stand in double quotes"):
        open_labelled(str(folder))


def test_labels_that_are_numbers_are_in_their_order(folder: Path) -> None:
    (folder / "labels.csv").write_text("id,label\na,10\nb,9\nc,100\nd,9\n")
    assert open_labelled(str(folder)).class_names == ("9", "10", "100")


# ------------------------------------------------------------------------------------------------ beside other things


def test_table_beside_class_folders_counts(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("batch1/1.png", "batch1/2.png", "batch2/3.png"):
        make_image(name)
    (tmp_path / "labels.csv").write_text("file,label\n1.png,cat\n2.png,dog\n3.png,Batch2\n")
    source = open_labelled(str(tmp_path))
    assert labels_of(source) == {"batch1/1.png": "cat", "batch1/2.png": "dog", "batch2/3.png": "Batch2"}
    assert "by its folder" in source.skipped[0].reason


def test_table_of_class_names_is_no_table_of_images(make_image: MakeImage, tmp_path: Path) -> None:
    for number in range(20):
        make_image(f"n0{number % 2}/{number}.png")
    (tmp_path / "labels.csv").write_text("id,name\n0,cat\n")
    source = open_labelled(str(tmp_path))
    assert all(label == name[:3] for name, label in labels_of(source).items())
    assert "far fewer than the class folders, which count" in source.skipped[-1].reason
    (tmp_path / "labels.csv").write_text("id,name\nx,cat\n")
    assert "names no image that is there" in open_labelled(str(tmp_path)).skipped[0].reason


def test_captions_and_labels_of_one_table(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text,label\na.png,one,x\nb.png,two,y\n")
    source = open_source(folder)
    assert source.captions == [("one",), ("two",), (), ()]
    assert labels_of(source) == {"a.png": "x", "b.png": "y", "c.png": None, "d.png": None}


def test_text_files_give_captions_beside_a_table_of_labels(folder: Path) -> None:
    (folder / "labels.csv").write_text(FOUR)
    (folder / "b.TXT").write_text("two\n")
    (folder / "c.txt").write_text("three\n")
    assert open_source(folder).captions == [(), ("two",), ("three",), ()]


def test_text_file_of_an_image_of_nearly_the_same_name(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("Cat.png", "cat.png", "cafe\u0301.png"):
        make_image(name)
    (tmp_path / "cat.txt").write_text("small")
    (tmp_path / "caf\u00e9.txt").write_text("accent")
    source = open_source(tmp_path)
    assert dict(zip(source.ids, source.captions or [], strict=True)) == {
        "Cat.png": (),
        "cat.png": ("small",),
        "cafe\u0301.png": ("accent",),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.png,Käfer\n".encode("latin-1"), "labels.csv is not UTF-8 text .*; save it as UTF-8"),
        (b"file,label\nz.png,x\n", "names no image that is there; for example 'z.png' is not in"),
        (b"name,label\na.png,x\n", "has no column 'file_name' or .*; its columns are name, label"),
        (b"", "labels.csv is empty"),
        (FOUR.encode("utf-16-le"), "labels.csv is not UTF-8 text .it holds the byte zero.; save it as UTF-8"),
        (b'file,label\na.png,"x\n', "a double quote is opened and never closed"),
    ],
)
def test_table_that_cannot_be_used(folder: Path, content: bytes, message: str) -> None:
    (folder / "labels.csv").write_bytes(content)
    for source in (folder, folder / "labels.csv"):
        with pytest.raises(DataError, match=message):
            open_source(source)


def test_lines_of_json_that_nest_deeply(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 1: expected a JSON object"):
        open_source(folder)


def test_other_splits_are_left_out_where_a_column_names_splits(folder: Path) -> None:
    """Images that were held out by another name are not trained on."""
    table = "file,label,split\na.png,cat,train\nb.png,dog,Public Test\nc.png,cat,val\nd.png,dog,unused\n"
    (folder / "labels.csv").write_text(table)
    for source in (open_source(folder), open_source(folder / "labels.csv")):
        assert source.splits is not None
        assert dict(zip(source.ids, source.splits.tolist(), strict=True)) == {"a.png": "train", "c.png": "val"}
        assert labels_of(source) == {"a.png": "cat", "c.png": "cat"}
        reason = "is of the split Public Test, unused, which is none of train, val, test; left out (2 in all)"
        assert ("b.png, d.png", reason) in [(row.id, row.reason) for row in source.skipped]


def test_column_without_any_split_is_no_column_of_splits(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label,split\na.png,cat,A\nb.png,dog,B\nc.png,cat,A\nd.png,dog,B\n")
    source = open_source(folder)
    assert labels_of(source) == EXPECTED and source.splits is None


def test_table_that_says_nothing_is_named(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,labl\na.png,cat\n")
    source = open_source(folder)
    assert source.labels is None
    assert ("metadata.csv", "was not used: it has no column of labels, captions or splits") in [
        (row.id, row.reason) for row in source.skipped
    ]


def test_objects_without_captions_leave_those_of_text_files(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "objects": {"bbox": []}}\n')
    (folder / "b.txt").write_text("two")
    assert open_source(folder).captions == [(), ("two",), (), ()]


@pytest.mark.parametrize("missing", ["null", "NaN"])
def test_labels_in_json_as_pandas_writes_them(folder: Path, missing: str) -> None:
    labels = ("1.0", missing, "2.0", "1.0")
    lines = [f'{{"file_name": "{name}.png", "label": {label}}}' for name, label in zip("abcd", labels, strict=True)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert labels_of(open_source(folder)) == {"a.png": "1", "b.png": None, "c.png": "2", "d.png": "1"}


def test_one_folder_of_images_is_no_class_that_a_table_contradicts(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.png"):
        make_image(name)
    (tmp_path / "labels.csv").write_text("file,label\na.png,cat\nb.png,dog\n")
    source = open_labelled(str(tmp_path))
    assert labels_of(source) == {"images/a.png": "cat", "images/b.png": "dog"} and not source.skipped
