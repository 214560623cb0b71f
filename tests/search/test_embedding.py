"""Shards of embeddings: the same bytes whoever writes them, and nothing lost to broken files or interruptions."""

from __future__ import annotations

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsin.encoders.open_clip import OpenClipEncoder
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.names import printable
from opsin.search.collection import contained_path, list_folder, open_collection
from opsin.search.embedding import embed, parse_part
from opsin.search.index import ImageIndex
from opsin.search.shards import path_to_text, read_manifest, read_rows, read_vectors, text_to_path
from tests.search.colours import ColourEncoder, assert_finds_what_is_there, load_colours, paint, paint_many


def load_small_clip() -> OpenClipEncoder:
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    preprocessing = {"size": 32, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic"}
    open_clip.model.set_model_preprocess_cfg(model, {**preprocessing, "resize_mode": "shortest", "fill_color": 0})
    return OpenClipEncoder("small", model, torch.device("cpu"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    paint_many(tmp_path / "photos", 50)
    (tmp_path / "photos" / "020.png").write_bytes(b"no image")
    return tmp_path / "photos"


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_rows_belong_to_their_images(photos: Path, tmp_path: Path) -> None:
    report = embed(photos, tmp_path / "out", load_colours, rows_per_shard=16)
    assert (report.written, report.rows, report.shard_count, report.complete) == (4, 49, 4, True)
    assert [row.id for row in report.skipped] == ["020.png"]
    manifest = read_manifest(tmp_path / "out")
    assert [shard["rows"] for shard in manifest["shards"]] == [16, 15, 16, 2]
    assert (manifest["encoder"], manifest["dim"], manifest["complete"]) == ("colours", 4, True)
    for number in range(4):
        rows = read_rows(tmp_path / "out", number)
        vectors = read_vectors(tmp_path / "out", number, 4)
        expected = ColourEncoder().encode_image([photos / row.entry.id for row in rows]).half().numpy()
        np.testing.assert_array_equal(vectors, expected)
        assert pq.read_table(tmp_path / "out" / f"{number:06d}.parquet").num_rows == len(rows)


@pytest.mark.parametrize("load", [load_colours, load_small_clip])
def test_shares_of_the_work_give_the_same_bytes(load: Callable, photos: Path, tmp_path: Path) -> None:
    """Whoever finishes last, however many threads there are, and also when shares are counted from 1."""
    embed(photos, tmp_path / "whole", load, rows_per_shard=16)
    torch.set_num_threads(2)
    try:
        for part in ((3, 3), (1, 3), (2, 3)):
            report = embed(photos, tmp_path / "shares", load, part=part, rows_per_shard=16)
    finally:
        torch.set_num_threads(1)
    assert report.complete
    assert content(tmp_path / "shares") == content(tmp_path / "whole")


def test_running_again_does_what_is_missing(photos: Path, tmp_path: Path) -> None:
    embed(photos, tmp_path / "out", load_colours, rows_per_shard=16)
    before = content(tmp_path / "out")
    assert embed(photos, tmp_path / "out", load_colours, rows_per_shard=16).written == 0
    (tmp_path / "out" / "000001.json").unlink()
    (tmp_path / "out" / "000002.npy").write_bytes(b"cut short")
    report = embed(photos, tmp_path / "out", load_colours, rows_per_shard=16)
    assert (report.written, report.kept) == (2, 2)
    assert content(tmp_path / "out") == before
    for number in range(10, 50):
        (photos / f"{number:03d}.png").unlink()
    report = embed(photos, tmp_path / "out", load_colours, rows_per_shard=16)
    assert (report.rows, report.shard_count) == (10, 1)
    assert len(content(tmp_path / "out")) == 4


def test_a_file_that_cannot_be_read_just_then_is_tried_again(photos: Path, tmp_path: Path) -> None:
    def load_late() -> ColourEncoder:
        (photos / "030.png").rename(tmp_path / "away.png")
        return ColourEncoder()

    first = embed(photos, tmp_path / "out", load_late, rows_per_shard=16)
    assert (first.rows, first.complete) == (48, True)
    (tmp_path / "away.png").rename(photos / "030.png")
    again = embed(photos, tmp_path / "out", load_colours, rows_per_shard=16)
    assert (again.written, again.kept, again.rows) == (1, 3, 49)
    embed(photos, tmp_path / "whole", load_colours, rows_per_shard=16)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_in_the_way_is_refused(photos: Path, tmp_path: Path) -> None:
    embed(photos, tmp_path / "out", load_colours)
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match="with other weights"):
        embed(photos, tmp_path / "out", load_small_clip)
    paint(tmp_path / "other" / "a.png", (1, 2, 3))
    with pytest.raises(ConfigError, match="holds the embeddings of"):
        embed(tmp_path / "other", tmp_path / "out", load_colours)
    assert content(tmp_path / "out") == before
    with pytest.raises(ConfigError, match="holds other files"):
        embed(photos, tmp_path / "other", load_colours)
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(CheckpointError, match="format version 9"):
        embed(photos, tmp_path / "out", load_colours)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="not even the only image can be read; the last: a.jpg is empty"):
        embed(tmp_path / "broken", tmp_path / "none", load_colours)


def test_an_index_takes_over_embeddings(photos: Path, tmp_path: Path) -> None:
    """Of an unfinished collection as well; files whose size and times are those that were recorded are not read."""
    shutil.copy(photos / "003.png", photos / "copy.png")
    embed(photos, tmp_path / "half", load_colours, part=(0, 2), rows_per_shard=16)
    embed(photos, tmp_path / "whole", load_colours, rows_per_shard=16)
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    report = index.update(embeddings=tmp_path / "half")
    assert (report.encoded, report.total, index.source) == (50 - 32 - 1, 50, str(photos))  # one is a copy
    (photos / "020.png").unlink()
    assert_finds_what_is_there(index, photos)
    paint(photos / "more.png", (9, 8, 7))
    report = index.update(embeddings=tmp_path / "whole")
    assert (report.added, report.encoded, report.unchanged) == (("more.png",), 1, 50)
    moved = photos.rename(tmp_path / "moved")
    for file in moved.iterdir():
        os.utime(file, ns=(5, 5))
    other = ImageIndex.create(tmp_path / "other", ColourEncoder())
    report = other.update(moved, embeddings=tmp_path / "whole")
    assert (len(report.added), report.encoded, other.source) == (51, 1, str(moved))
    assert_finds_what_is_there(other, moved)


def test_embeddings_that_do_not_fit_an_index(photos: Path, tmp_path: Path) -> None:
    embed(photos, tmp_path / "out", load_colours, rows_per_shard=16)
    index = ImageIndex.create(tmp_path / "index", ColourEncoder("colours/2"))
    with pytest.raises(ConfigError, match="is not the same encoder or has other weights; make another index"):
        index.update(embeddings=tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds no embeddings"):
        index.update(photos, embeddings=tmp_path)
    index = ImageIndex.create(tmp_path / "same", ColourEncoder())
    shard = tmp_path / "out" / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:-8] + bytes(8))
    with pytest.raises(CheckpointError, match="shard 1 in .* is damaged .*; run 'opsin embed' again"):
        index.update(embeddings=tmp_path / "out")
    assert len(index) == 0
    assert index.update(photos).encoded == 49 - 16  # those of the first shard are staged
    manifest = tmp_path / "out" / "manifest.json"
    for content in (b"[]", b'{"format_version": 2, "dim": 4}'):
        manifest.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no manifest of embeddings"):
            index.update(embeddings=tmp_path / "out")


@pytest.mark.parametrize("text", ["3", "a/b", "4/3", "1/0", "-1/2", ""])
def test_shares_that_do_not_exist(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_part(text)


# ---------------------------------------------------------------------------------- listing and names


def test_a_folder_with_everything_that_can_be_wrong() -> None:
    root, outside = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    for folder in (root, outside):
        folder.chmod(0o755)
    paint(root / "good.png", (1, 2, 3))
    paint(root / "deep" / "er" / "also good.PNG", (4, 5, 6))
    paint(root / ".hidden" / "x.png", (4, 5, 6))
    paint(root / "closed" / "x.png", (4, 5, 6))
    paint(outside / "outside.png", (7, 8, 9))
    (root / "notes.txt").write_text("no image")
    (root / "deep" / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "nowhere.png").symlink_to(root / "nothing")
    (root / "inside.png").symlink_to(root / "good.png")
    (root / "outside.png").symlink_to(outside / "outside.png")
    os.mkfifo(root / "pipe.png")
    name = os.fsdecode(b"new\nline \xff.png")
    paint(root / "plain.png", (1, 1, 1)).rename(root / name)
    (root / "closed").chmod(0)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        listing = list_folder(root)
    finally:
        if superuser:
            os.seteuid(0)
        (root / "closed").chmod(0o755)
    assert {entry.id for entry in listing.entries} == {"good.png", "deep/er/also good.PNG", "inside.png", name}
    assert [row.id for row in listing.skipped] == ["closed", "nowhere.png", "outside.png", "pipe.png", "self.png"]
    assert (listing.unreadable, dict(listing.other_files)) == (["closed"], {".txt": 1})
    assert "Permission denied" in listing.skipped[0].reason
    assert "leads out of the folder" in listing.skipped[2].reason


def test_nothing_to_embed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image was found below"):
        open_collection(tmp_path)
    with pytest.raises(DataError, match="there is no data source"):
        open_collection(tmp_path / "missing")


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_name_survives_as_text(name: bytes) -> None:
    path = os.fsdecode(name)
    text = path_to_text(path)
    assert os.fsencode(text_to_path(text)) == name
    assert text.encode("utf-8") and "\n" not in text
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Cn", "Co", "Zl", "Zp") for char in printable(path))


@settings(deadline=None)
@given(st.text(alphabet="./ab\\\0\n", max_size=12))
def test_no_path_leads_out(relative: str) -> None:
    root = Path("/nowhere/root")
    try:
        path = contained_path(root, relative)
    except DataError:
        return
    assert os.path.normpath(path) == str(root) or os.path.normpath(path).startswith(f"{root}/")
