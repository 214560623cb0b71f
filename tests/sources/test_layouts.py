"""Directories in which layouts are mixed, lie too deep, or have names that people read as equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opsin.data.splits import split_digest
from opsin.errors import DataError
from opsin.sources.folders import folder_source
from opsin.sources.image_source import UNLABELLED
from opsin.sources.opening import open_labelled, open_source
from tests.conftest import MakeImage

from .test_folders import class_of, opened, reasons, split_of

# -------------------------------------------------------------------------------------------- mixed layouts


def make_all(make_image: MakeImage, *names: str) -> None:
    for name in names:
        make_image(name)


FLAT = [f"{number}.png" for number in range(6)]


@pytest.mark.parametrize("labels", [True, False])
def test_one_image_in_a_folder_does_not_hide_all_beside_it(make_image: MakeImage, tmp_path: Path, labels: bool) -> None:
    make_all(make_image, *FLAT, "album2/a.png", "album2/b.png")
    for name in ("0", "album2/a"):
        (tmp_path / f"{name}.txt").write_text(f"caption of {name}")
    source = folder_source(tmp_path, "x", labels=labels)
    assert source.ids == [*FLAT, "album2/a.png", "album2/b.png"]
    assert (source.labels, source.splits, source.skipped) == (None, None, [])
    assert source.captions is not None
    captions = dict(zip(source.ids, source.captions, strict=True))
    assert {name for name, texts in captions.items() if texts} == {"0.png", "album2/a.png"}
    assert captions["album2/a.png"] == ("caption of album2/a",)


def test_images_beside_larger_class_folders_count_where_no_labels_are_needed(
    make_image: MakeImage, tmp_path: Path
) -> None:
    make_all(make_image, "cat/1.png", "cat/2.png", "dog/1.png", "a.png", "b.png")
    labelled = folder_source(tmp_path, "x")
    assert labelled.ids == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert reasons(labelled) == {"a.png, b.png": "lies outside the class folders (2 in all)"}
    every = folder_source(tmp_path, "x", labels=False)
    assert every.ids == ["a.png", "b.png", "cat/1.png", "cat/2.png", "dog/1.png"]
    assert every.labels is not None
    assert every.labels.tolist() == [UNLABELLED, UNLABELLED, 0, 0, 1]
    assert (every.class_names, every.skipped) == (("cat", "dog"), [])
    assert split_digest(every.labelled()) == split_digest(labelled)


def test_class_folders_alone_keep_their_labels_where_none_are_needed(make_image: MakeImage, tmp_path: Path) -> None:
    make_all(make_image, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "test/1.png")
    source = folder_source(tmp_path, "x", labels=False)
    assert class_of(source) == {"train/cat/1.png": "cat", "train/dog/1.png": "dog", "val/cat/1.png": "cat"}
    assert split_digest(source) == split_digest(folder_source(tmp_path, "x"))


@pytest.mark.parametrize("labels", [True, False])
def test_a_folder_called_test_among_many_images_is_not_trained_on(
    make_image: MakeImage, tmp_path: Path, labels: bool
) -> None:
    make_all(make_image, *FLAT, "test/1.png", "album/1.png")
    splits = split_of(folder_source(tmp_path, "x", labels=labels))
    assert len(splits) == 8
    assert {name for name, split in splits.items() if split == "test"} == {"test/1.png"}


def test_images_beside_class_folders_of_a_split(make_image: MakeImage, tmp_path: Path) -> None:
    make_all(make_image, "train/cat/1.png", "train/dog/1.png", "train/stray.png", "val/cat/1.png", "val/2.png")
    assert opened(tmp_path).ids == ["train/cat/1.png", "train/dog/1.png", "val/cat/1.png"]
    every = folder_source(tmp_path, "x", labels=False)
    assert len(every) == 5
    assert split_of(every)["val/2.png"] == "val"
    assert every.labelled().ids == opened(tmp_path).ids


def test_what_is_called_outside_of_splits_is_counted(make_image: MakeImage, tmp_path: Path) -> None:
    make_all(make_image, *(f"train/{name}" for name in FLAT), "test/1.png", "all/1.png", "all/2.png", *FLAT[:5])
    source = folder_source(tmp_path, "x", labels=False)
    assert len(source) == 7  # the others may be copies of test images
    assert reasons(source) == {
        "all": "lies outside test, train (2 images)",
        "0.png, 1.png, 2.png, …": "lies outside test, train (5 in all)",
    }


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("images", [("train/cat/1.png", "val/cat/1.png"), ("Train/1.png", "valid/1.png")])
def test_splits_one_folder_too_deep_are_not_trained_on(
    make_image: MakeImage, tmp_path: Path, labels: bool, images: tuple[str, ...]
) -> None:
    make_all(make_image, *(f"outer/imagenet/{name}" for name in images), "outer/readme.png")
    outer = tmp_path / "outer"
    with pytest.raises(DataError, match=r"lie in the folder imagenet of .*; give .*outer/imagenet as the source"):
        folder_source(outer, "x", labels=labels)
    assert set(split_of(folder_source(outer / "imagenet", "x", labels=labels)).values()) == {"train", "val"}


def test_splits_inside_of_classes(make_image: MakeImage, tmp_path: Path) -> None:
    make_all(make_image, "cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png")
    with pytest.raises(DataError, match="the splits train and test lie in the folder cat .*, as in 1 other folders"):
        opened(tmp_path)


def test_classes_one_folder_too_deep(make_image: MakeImage, tmp_path: Path) -> None:
    make_all(make_image, "animals/cat/1.png", "animals/dog/1.png")
    with pytest.raises(
        DataError, match=r"one class only \(animals\).* If the folders in animals are the classes, name"
    ):
        open_labelled(str(tmp_path))
    make_all(make_image, *FLAT)
    with pytest.raises(DataError, match="has no labels.* Of its 8 images 6 lie beside the folders"):
        open_labelled(str(tmp_path))


# ----------------------------------------------------------------------------------- names that read as equal


@pytest.mark.parametrize("other", ["cafe\N{COMBINING ACUTE ACCENT}", "Café", "CAFÉ", "café ", " café"])
def test_classes_whose_names_read_as_equal_are_one(make_image: MakeImage, tmp_path: Path, other: str) -> None:
    make_all(make_image, "train/café/1.png", "train/café/2.png", "train/dog/1.png", f"val/{other}/1.png")
    source = opened(tmp_path)
    assert source.class_names == ("café", "dog")
    assert class_of(source)[f"val/{other}/1.png"] == "café"
    make_all(make_image, f"beside/café/{other}.png", f"beside/{other}/1.png", "beside/dog/1.png")
    assert len(opened(tmp_path / "beside").class_names or ()) == 2


def test_folders_side_by_side_that_are_one_class_are_named(
    make_image: MakeImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_all(make_image, "train/Cat/1.png", "train/cat/2.png", "train/dog/1.png", "val/cat/1.png")
    assert opened(tmp_path).class_names == ("cat", "dog")
    assert caplog.messages == ["the folders 'Cat' and 'cat' are read as one class"]


def test_a_class_without_a_training_image_is_a_warning(
    make_image: MakeImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_all(make_image, "train/cat/1.png", "train/dog/1.png", "val/Cat/1.png", "test/dog/1.png")
    open_source(tmp_path)
    assert caplog.messages == []
    make_all(make_image, "val/eel/1.png", "test/eel/1.png")
    open_source(tmp_path)
    [message] = caplog.messages
    assert "1 class has images to validate or test on and none to train on: eel" in message
    caplog.clear()
    shutil.rmtree(tmp_path / "train")
    open_source(tmp_path)  # something to judge a model on
    assert caplog.messages == []
