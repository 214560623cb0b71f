"""The embedded source: complete, deterministic, divided by emoji, and safe to build twice at once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opsin.data.pixels import load_pixels
from opsin.errors import DataError
from opsin.sources import emoji as emoji_module
from opsin.sources.emoji import STYLES, cache_directory, list_emoji
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source

ROOT = Path(__file__).parents[2]


def row_of(source: ImageSource, name: str) -> int:
    return list(source.ids).index(name)


def test_every_emoji_in_both_styles(emoji: ImageSource) -> None:
    assert len(emoji) > 3600
    assert len(set(emoji.ids)) == len(emoji)
    codes, counts = np.unique(emoji.metadata["code"], return_counts=True)
    assert set(counts) == {len(STYLES)}
    assert len(codes) == len(list_emoji())
    assert set(emoji.metadata["style"]) == set(STYLES)


def test_skin_tones_and_parts_are_left_out(emoji: ImageSource) -> None:
    points = {point for code in emoji.metadata["code"] for point in code.split("-")}
    assert not points & {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
    assert "Component" not in (emoji.class_names or ())


def test_what_is_known_about_one_emoji(emoji: ImageSource) -> None:
    row = row_of(emoji, "1F600/openmoji")
    assert emoji.labels is not None
    assert emoji.class_names is not None
    assert emoji.captions is not None
    assert emoji.class_names[emoji.labels[row]] == "Smileys & Emotion"
    assert emoji.captions[row][0] == "grinning face"
    assert {name: str(column[row]) for name, column in emoji.metadata.items()} == {
        "code": "1F600",
        "style": "openmoji",
        "subgroup": "face-smiling",
        "name": "grinning face",
    }


def test_classes_are_the_unicode_groups(emoji: ImageSource) -> None:
    assert emoji.class_names == (
        "Activities",
        "Animals & Nature",
        "Flags",
        "Food & Drink",
        "Objects",
        "People & Body",
        "Smileys & Emotion",
        "Symbols",
        "Travel & Places",
    )
    assert emoji.labels is not None
    assert np.bincount(emoji.labels).min() > 100


def test_captions_are_words_without_repetition(emoji: ImageSource) -> None:
    assert emoji.captions is not None
    for captions in emoji.captions:
        assert captions
        assert len({caption.casefold() for caption in captions}) == len(captions)
        assert all(caption == " ".join(caption.split()).strip(":") and "_" not in caption for caption in captions)


def test_splits_are_about_80_10_10_in_every_class(emoji: ImageSource) -> None:
    assert emoji.splits is not None
    assert emoji.labels is not None
    for name, low, high in (("train", 0.78, 0.82), ("val", 0.08, 0.12), ("test", 0.08, 0.12)):
        assert low < (emoji.splits == name).mean() < high
        assert set(emoji.labels[emoji.splits == name]) == set(range(9))


def test_no_emoji_and_no_drawing_is_in_two_splits(emoji: ImageSource) -> None:
    assert emoji.splits is not None
    assert emoji.groups is not None
    _, pixels = load_pixels(emoji, 64)
    drawings = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in pixels])
    for column in (emoji.groups, emoji.metadata["code"], drawings):
        pairs = set(zip(column.tolist(), emoji.splits.tolist(), strict=True))
        assert len(pairs) == len(np.unique(column))
    assert len(np.unique(drawings)) < len(emoji)  # there are such twins: a man's and a person's job, for example


@pytest.mark.parametrize(
    ("code", "split"),
    [("1F600", "train"), ("2764-FE0F", "train"), ("1F981", "val"), ("1F951", "val"), ("1F697", "test")],
)
def test_splits_do_not_change_from_version_to_version(emoji: ImageSource, code: str, split: str) -> None:
    """A model that was trained by an older opsin must not have seen the test images of a newer one."""
    assert emoji.splits is not None
    assert emoji.splits[row_of(emoji, f"{code}/twemoji")] == emoji.splits[row_of(emoji, f"{code}/openmoji")] == split


@pytest.mark.parametrize("style", STYLES)
def test_drawings_are_on_white_centred_and_of_one_scale(emoji: ImageSource, style: str) -> None:
    _, pixels = load_pixels(emoji.select(emoji.metadata["style"] == style), 64)
    ink = pixels.min(axis=1) < 250
    assert ink.any(axis=(1, 2)).all()
    # Transparency that became black would fill the corners.
    assert (pixels[:, :, 0, 0] == 255).all(axis=1).mean() > 0.8
    rows, columns = ink.any(axis=2), ink.any(axis=1)
    for lines in (rows, columns):
        first, last = lines.argmax(axis=1), 63 - lines[:, ::-1].argmax(axis=1)
        assert abs(((first + last) / 2).mean() - 31.5) < 0.6
        assert 48 < (last - first + 1).mean() < 64
    assert np.ptp(pixels.astype(np.int64), axis=1).max(axis=(1, 2)).mean() > 80  # coloured, not grey


def test_images_are_rgb_and_agree_with_the_array(emoji: ImageSource) -> None:
    row = row_of(emoji, "1F34E/twemoji")
    image = emoji.load(row)
    assert image.mode == "RGB"
    assert image.size == (64, 64)
    red, green, blue = np.asarray(image)[40, 32].astype(int)
    assert red > 150 > green + blue - 50  # an apple is red in the middle


def test_second_opening_reads_the_cache(emoji: ImageSource, emoji_cache: Path) -> None:
    files = {
        path: path.stat().st_mtime_ns for path in (emoji_cache / "emoji").rglob("*") if path.suffix in {".npy", ".json"}
    }
    assert len(files) == 2
    again = open_source("emoji")
    assert again.ids == emoji.ids
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_another_version_of_a_package_gives_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_directory()
    assert cache_directory() == before
    monkeypatch.setattr(emoji_module, "version", lambda package: "99.0")
    assert cache_directory() != before


def test_two_processes_build_the_same_at_once(emoji: ImageSource, emoji_cache: Path, tmp_path: Path) -> None:
    """A part of the emoji, so that it is quick; the shared cache, built by a third process, has the same pixels."""
    code = (
        "from opsin.sources import emoji; known = emoji.list_emoji()[:300]; emoji.list_emoji = lambda: known; "
        "print(len(emoji.emoji_source()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPSIN_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in running] == ["600\n"] * 2
    (shared,) = emoji_cache.rglob("pixels.npy")
    built = np.load(tmp_path / shared.relative_to(emoji_cache))
    assert (built == np.load(shared, mmap_mode="r")[:600]).all()
    assert not list(tmp_path.rglob("*.tmp"))


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cache, and that cannot be written: .*Not a directory.* set OPSIN_CACHE"):
        open_source("emoji")


def test_interrupted_build_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that was killed has left the pixels, perhaps, but never the table, which is written last."""
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    known = list_emoji()[:20]
    monkeypatch.setattr(emoji_module, "list_emoji", lambda: known)
    directory = cache_directory()
    directory.mkdir(parents=True)
    (directory / "pixels.npy").write_bytes(b"half")
    source = open_source("emoji")
    assert len(source) == 40
    assert load_pixels(source, 64)[1].min(axis=(1, 2, 3)).max() < 255
