"""Patterns of what a source leaves out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.splits import open_splits as open_captioning
from opsin.clip.config import ClipConfig
from opsin.clip.data import open_splits as open_clip
from opsin.config import from_dict, to_dict
from opsin.errors import ConfigError, DataError
from opsin.search.collection import open_collection
from opsin.sources.exclusion import Exclusion
from opsin.sources.listing import list_images
from opsin.sources.opening import open_labelled, open_source
from tests.conftest import MakeImage, MakeParquet, encoded


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("thumbs", "thumbs"),
        ("thumbs", "cat/thumbs"),
        ("thumbs/", "cat/Thumbs"),
        ("./thumbs", "thumbs"),
        ("**/thumbs", "thumbs"),
        ("*.gif", "cat/1.GIF"),
        ("2019/raw", "photos/2019/raw"),
        ("/raw", "raw"),
        ("caf\u00e9", "cafe\u0301"),
        ("img_[0-9]?.png", "cat/img_07.png"),
    ],
)
def test_patterns_that_fit(pattern: str, path: str) -> None:
    assert Exclusion([pattern]).covers(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("thumbs", "thumbs2"), ("thumb", "cat/thumbs"), ("/raw", "cat/raw"), ("2019/raw", "12019/raw"), ("a*c", "ab/c")],
)
def test_patterns_that_do_not_fit(pattern: str, path: str) -> None:
    assert not Exclusion([pattern]).covers(path)


@pytest.mark.parametrize("pattern", ["", " ", "/", "./"])
def test_an_empty_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="says nothing to exclude"):
        Exclusion([pattern])


@pytest.fixture
def folder(make_image: MakeImage, tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/2.gif", "cat/small/1.png", "dog/1.png", "dog/3.png", "eel/1.png"):
        make_image(name)
        (tmp_path / name).with_suffix(".txt").write_text(f"a picture of {name}")
    return tmp_path


def test_a_folder_without_what_is_excluded(folder: Path) -> None:
    source = open_source(folder, exclude=["small", "*.GIF", "eel", "nothing"])
    assert source.ids == ["cat/1.png", "dog/1.png", "dog/3.png"]
    assert source.class_names == ("cat", "dog")
    assert {row.id: row.reason for row in source.skipped} == {
        "small": "this pattern excludes 1",
        "*.GIF": "this pattern excludes 1",
        "eel": "this pattern excludes 1",
        "nothing": "this pattern excludes nothing",
    }
    assert open_labelled(str(folder), exclude=["eel"]).class_names == ("cat", "dog")
    collection = open_collection(folder, ["small", "*.gif", "eel"])
    assert [entry.id for entry in collection.entries] == source.ids
    files = list_images([folder / "cat", folder / "dog" / "1.png", folder / "dog" / "3.png"], ["small", "3.*"])
    assert [path.relative_to(folder).as_posix() for path in files] == ["cat/1.png", "cat/2.gif", "dog/1.png"]
    with pytest.raises(DataError, match="no image was found"):
        open_source(folder, exclude=["*.png", "*.gif"])
    with pytest.raises(DataError, match="excluded by"):
        list_images([folder / "dog" / "1.png"], ["1.png"])


def test_other_sources_by_their_ids(make_parquet: MakeParquet) -> None:
    path = make_parquet("train.parquet", {"image": [encoded(), encoded(), encoded()], "label": [0, 1, 2]})
    assert open_source(path, exclude=["000001"]).ids == ["train/000000", "train/000002"]
    assert [entry.id for entry in open_collection(path, ["train/*2"]).entries] == ["train/000000", "train/000001"]
    with pytest.raises(DataError, match="every image of .* is excluded by 'train'"):
        open_source(path, exclude=["train"])


def test_a_run_keeps_its_patterns(folder: Path) -> None:
    captioning = CaptioningConfig(data=str(folder), exclude=("small", "*.gif"), val_fraction=0)
    assert from_dict(CaptioningConfig, to_dict(captioning)) == captioning
    assert len(open_captioning(captioning).train) == 4
    clip = ClipConfig(data=str(folder), exclude=("small", "*.gif"), val_fraction=0)
    assert len(open_clip(clip).train) == 4
    assert len(open_clip(dataclasses.replace(clip, exclude=())).train) == 6
