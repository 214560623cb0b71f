"""COCO caption files and the images that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsin.errors import DataError
from opsin.sources.coco import coco_source
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source
from tests.conftest import MakeImage


def write_annotations(path: Path, images: list[Any], annotations: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def image(number: int | str, name: str) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 8, "height": 8}


def caption(number: int | str, text: str) -> dict[str, Any]:
    return {"id": f"c{number}", "image_id": number, "caption": text}


def captions_of(source: ImageSource) -> dict[str, tuple[str, ...]]:
    assert source.captions is not None
    return dict(zip(source.ids, source.captions, strict=True))


def test_published_layout(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train2014/COCO_1.jpg", (200, 0, 0))
    make_image("train2014/COCO_2.jpg")
    make_image("val2014/COCO_3.jpg")
    make_image("val2014/unlisted.jpg")
    write_annotations(
        tmp_path / "annotations" / "captions_train2014.json",
        [image(2, "COCO_2.jpg"), image(1, "COCO_1.jpg"), image(9, "COCO_9.jpg")],
        [caption(1, "a red square\n"), caption(2, "another"), caption(1, "ein Quadrat 🟥"), caption(9, "lost")],
    )
    write_annotations(tmp_path / "annotations" / "captions_val2014.json", [image(3, "COCO_3.jpg")], [])
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{}")

    source = open_source(f"coco:{tmp_path}")
    assert captions_of(source) == {
        "train2014/COCO_2.jpg": ("another",),
        "train2014/COCO_1.jpg": ("a red square", "ein Quadrat 🟥"),
        "val2014/COCO_3.jpg": (),
    }
    assert source.splits is not None
    assert source.splits.tolist() == ["train", "train", "val"]
    assert source.load(1).getpixel((0, 0))[0] > 150  # type: ignore[index]
    assert source.name == f"coco:{tmp_path}"
    assert [(row.id, row.reason) for row in source.skipped] == [
        ("COCO_9.jpg", "named in captions_train2014.json, but no such image is there")
    ]


def test_files_without_a_split_are_left_out_where_others_have_one(make_image: MakeImage, tmp_path: Path) -> None:
    for number, split in enumerate(("training2014", "dev2017", "more")):
        make_image(f"{number}.jpg")
        write_annotations(tmp_path / f"captions_{split}.json", [image(1, f"{number}.jpg")], [caption(1, " a ")])
    source = coco_source(tmp_path, "coco")
    assert source.splits is not None
    assert dict(zip(source.ids, source.splits.tolist(), strict=True)) == {"0.jpg": "train", "1.jpg": "val"}
    assert [row.id for row in source.skipped] == ["captions_more.json"]


def test_same_name_in_two_folders(make_image: MakeImage, tmp_path: Path) -> None:
    for folder in ("train2017", "val2017"):
        make_image(f"images/{folder}/1.jpg")
        write_annotations(tmp_path / f"captions_{folder}.json", [image(1, "1.jpg")], [caption(1, folder)])
    assert captions_of(coco_source(tmp_path, "coco")) == {
        "images/train2017/1.jpg": ("train2017",),
        "images/val2017/1.jpg": ("val2017",),
    }


def test_single_file_without_splits_and_names_with_folders(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("a/1.png")
    make_image("b/1.png")
    write_annotations(tmp_path / "mine.json", [image("x", "b/1.png")], [caption("x", "right")])
    source = coco_source(tmp_path, "coco")
    assert captions_of(source) == {"b/1.png": ("right",)}
    assert source.splits is None


def test_file_outside_the_directory_is_not_read(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("secret.png")
    make_image("data/1.png")
    write_annotations(tmp_path / "data" / "c.json", [image(1, "../secret.png"), image(2, "1.png")], [])
    source = coco_source(tmp_path / "data", "coco")
    assert source.ids == ["1.png"]
    assert [row.id for row in source.skipped] == ["../secret.png"]


def test_image_listed_twice_counts_once(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    write_annotations(tmp_path / "c.json", [image(1, "1.png"), image(1, "1.png")], [caption(1, "one")])
    source = coco_source(tmp_path, "coco")
    assert captions_of(source) == {"1.png": ("one",)}
    assert source.skipped[0].reason == "lists 1 image twice; each counts once"


ONE = [image(1, "1.png")]


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (ONE, [caption(1, "a"), caption(5, "b"), caption(7, "c"), caption(5, "d")], "2 image ids .* for example 5, 7"),
        ([image(1, "1.png"), image(1, "2.png")], [], "the id 1 stands for two images, '1.png' is one"),
        ([image(1, "1.png"), image(2, "1.png")], [], "1 of its images has the file name of another one"),
        ([{"id": 1}], [], "entry 0 of 'images' has no usable 'file_name'"),
        ([*ONE, {"file_name": "1.png"}], [], "entry 1 of 'images' has no usable 'id'"),
        (ONE, [{"image_id": 1, "bbox": [0, 0, 1, 1]}], "entry 0 of 'annotations' has no usable 'caption'"),
        (ONE, ["text"], "entry 0 of 'annotations' has no usable 'image_id'"),
        ([image(3, "3.png"), image(4, "4.png")], [], "none of the 2 images .* for example '3.png', '4.png'"),
        ([], [], "names no image"),
    ],
)
def test_contradictions_are_named(
    make_image: MakeImage, tmp_path: Path, images: list[Any], annotations: list[Any], message: str
) -> None:
    make_image("1.png")
    write_annotations(tmp_path / "c.json", images, annotations)
    with pytest.raises(DataError, match=message):
        coco_source(tmp_path, "coco")


@pytest.mark.parametrize("text", ["{", "[]", '{"images": {}}', '{"images": []}'])
def test_other_json(make_image: MakeImage, tmp_path: Path, text: str) -> None:
    make_image("1.png")
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=r"c\.json (is not a readable JSON file|is no file of COCO captions)"):
        coco_source(tmp_path, "coco")


def test_no_annotation_file(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    with pytest.raises(DataError, match=r"tried annotations/captions_\*\.json"):
        coco_source(tmp_path, "coco")
    for name in ("a.json", "b.json"):
        write_annotations(tmp_path / name, ONE, [])
    with pytest.raises(DataError, match="no COCO captions"):
        coco_source(tmp_path, "coco")
    with pytest.raises(DataError, match="no directory"):
        open_source(f"coco:{tmp_path / 'none'}")


def test_two_files_with_the_same_image(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    for split in ("train", "val"):
        write_annotations(tmp_path / f"captions_{split}.json", ONE, [caption(1, split)])
    with pytest.raises(DataError, match=r"two annotation files .* for example '1\.png'"):
        coco_source(tmp_path, "coco")


def test_name_of_several_images_is_refused(make_image: MakeImage, tmp_path: Path) -> None:
    for name in ("red/1.png", "blue/1.png", "2.png"):
        make_image(name)
    write_annotations(tmp_path / "c.json", [*ONE, image(2, "2.png")], [caption(1, "which one"), caption(2, "two")])
    with pytest.raises(DataError, match=r"names '1\.png', and several .* are called so: blue/1\.png and red/1\.png"):
        coco_source(tmp_path, "coco")
    write_annotations(tmp_path / "c.json", [image(1, "red/1.png"), image(2, "2.png")], [caption(1, "red")])
    assert captions_of(coco_source(tmp_path, "coco")) == {"red/1.png": ("red",), "2.png": ()}


def test_spellings_marks_and_missing_captions_as_in_other_tables(make_image: MakeImage, tmp_path: Path) -> None:
    decomposed = "cafe\u0301.png"
    for name in (decomposed, "DOG.JPG"):
        make_image(name)
    names = [image(1, "caf\u00e9.png"), image(2, "dog.jpg")]
    write_annotations(tmp_path / "c.json", names, [caption(1, "one"), caption(1, None), caption(2, "two")])
    content = (tmp_path / "c.json").read_text(encoding="utf-8")
    (tmp_path / "c.json").write_text("\ufeff" + content, encoding="utf-8")
    assert captions_of(coco_source(tmp_path, "coco")) == {decomposed: ("one",), "DOG.JPG": ("two",)}


def test_deep_json_is_no_annotation_file(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("1.png")
    (tmp_path / "c.json").write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(DataError, match="is not a readable JSON file"):
        coco_source(tmp_path, "coco")
