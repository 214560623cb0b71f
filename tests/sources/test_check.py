"""The report on a source."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin import progress
from opsin.errors import DataError
from opsin.sources.check import check_source
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source
from tests.conftest import MakeImage


def test_report_of_class_folders_with_splits(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("train/cat/1.png", "red", (4, 6))
    make_image("train/cat/2.png", "blue", (9, 9))
    make_image("train/dog/3.png", "green")
    make_image("test/cat/4.bmp", "red", (4, 6))  # the first one, in another format
    make_image("test/dog/5.png", "red", (6, 4))  # the same pixels in another shape
    (tmp_path / "train" / "dog" / "broken.png").write_bytes(b"")
    (tmp_path / "test" / "eel").mkdir()
    report = check_source(open_source(tmp_path))
    assert report.count == 5
    assert report.classes == {"cat": 3, "dog": 2}
    assert report.splits == {"train": 3, "test": 2}
    assert (report.captions, report.without_caption) == (0, 0)
    assert report.smallest == (4, 6)
    assert report.largest == (9, 9)
    assert [row.id for row in report.broken] == ["test/eel", "train/dog/broken.png"]
    assert report.duplicates == (("test/cat/4.bmp", "train/cat/1.png"),)


def test_report_of_a_flat_folder_with_captions(make_image: MakeImage, tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        make_image(f"{name}.png", colour)
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    report = check_source(open_source(tmp_path))
    assert report.classes == report.splits == {}
    assert (report.captions, report.without_caption) == (2, 1)
    assert report.duplicates == ()


def test_report_of_greys_of_cameras(tmp_path: Path) -> None:
    for name, brightest in (("a", 4095), ("b", 4000), ("c", 1000), ("d", 65535), ("e", 100)):
        Image.fromarray(np.array([[0, brightest]], dtype=np.uint16)).save(tmp_path / f"{name}.png")
    assert check_source(open_source(tmp_path)).used_bits == {10: 1, 12: 2}


def test_class_whose_images_are_all_broken_counts_zero(make_image: MakeImage, tmp_path: Path) -> None:
    make_image("cat/1.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.png").write_text("no image")
    assert check_source(open_source(tmp_path)).classes == {"cat": 1, "dog": 0}


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(os.urandom(20))
    with pytest.raises(DataError, match=r"not even the only image .*1\.png is not an image"):
        check_source(open_source(tmp_path))


def test_progress_is_on_stderr(
    make_image: MakeImage, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0)
    make_image("1.png")
    check_source(open_source(tmp_path), progress=progress.ConsoleProgress())
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 of 1 images" in printed.err
    check_source(open_source(tmp_path))
    assert capsys.readouterr() == ("", "")


def test_report_of_the_emoji(emoji: ImageSource) -> None:
    report = check_source(emoji)
    assert report.count == len(emoji)
    assert sum(report.classes.values()) == sum(report.splits.values()) == len(emoji)
    assert report.smallest == report.largest == (64, 64)
    assert report.broken == ()


def test_report_of_images_without_label(make_image: MakeImage, tmp_path: Path) -> None:
    for name in "abc":
        make_image(f"{name}.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\nb.png,\n")
    report = check_source(open_source(tmp_path))
    assert (report.count, report.classes, report.without_label) == (3, {"x": 1}, 2)
