"""An index of images follows its folder, finds what is there, and survives what can go wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image

from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.search import store
from opsin.search.confidence import BACKGROUND_TEXTS
from opsin.search.index import ImageIndex
from opsin.search.results import write_contact_sheet
from tests.search.colours import ColourEncoder, assert_finds_what_is_there, paint


def encoder_of(index: ImageIndex) -> ColourEncoder:
    assert isinstance(index.encoder, ColourEncoder)
    return index.encoder


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != ".lock"}


# ------------------------------------------------------------------------------------------- following


def test_first_update_and_search(index: ImageIndex, photos: Path) -> None:
    assert len(index) == 31
    assert_finds_what_is_there(index, photos)
    best = index.search("red", k=1)[0]
    assert (best.id, best.path) == ("holiday/red.png", photos / "holiday" / "red.png")
    assert [hit.rank for hit in index.search("red", k=3)] == [1, 2, 3]
    assert index.image(best.id).getpixel((0, 0)) == (255, 0, 0)


def test_an_update_without_changes_reads_no_image_and_writes_nothing(index: ImageIndex, photos: Path) -> None:
    before, count = content(index.path), encoder_of(index).images_encoded
    report = index.update()
    assert (report.unchanged, report.encoded, report.total) == (31, 0, 31)
    assert content(index.path) == before
    assert encoder_of(index).images_encoded == count


def test_added_changed_moved_copied_and_deleted(index: ImageIndex, photos: Path) -> None:
    count = encoder_of(index).images_encoded
    paint(photos / "new.png", (1, 200, 30))
    paint(photos / "000.png", (3, 2, 1))
    (photos / "001.png").rename(photos / "holiday" / "renamed.png")
    shutil.copy(photos / "002.png", photos / "copy.png")
    (photos / "003.png").unlink()
    os.utime(photos / "004.png", ns=(1, 1))
    report = index.update(photos)
    assert set(report.added) == {"new.png", "copy.png"}
    assert report.changed == ("000.png",)
    assert report.moved == (("001.png", "holiday/renamed.png"),)
    assert report.deleted == ("003.png",)
    assert (report.unchanged, report.encoded, report.total) == (28, 2, 32)
    assert encoder_of(index).images_encoded == count + 2
    assert_finds_what_is_there(index, photos)
    assert index.update().unchanged == 32


def test_a_deleted_image_that_comes_back_is_not_encoded_again(index: ImageIndex, photos: Path) -> None:
    kept = (photos / "005.png").read_bytes()
    (photos / "005.png").unlink()
    assert index.update().deleted == ("005.png",)
    (photos / "005.png").write_bytes(kept)
    report = index.update()
    assert (report.added, report.encoded) == (("005.png",), 0)
    assert_finds_what_is_there(index, photos)


def test_two_images_change_places(index: ImageIndex, photos: Path) -> None:
    (photos / "006.png").rename(photos / "x.png")
    (photos / "007.png").rename(photos / "006.png")
    (photos / "x.png").rename(photos / "007.png")
    os.utime(photos / "006.png", ns=(5, 5))
    os.utime(photos / "007.png", ns=(6, 6))
    report = index.update()
    assert (set(report.changed), report.encoded) == ({"006.png", "007.png"}, 0)
    assert_finds_what_is_there(index, photos)


def test_everything_deleted_and_restored(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "kept")
    shutil.rmtree(photos)
    with pytest.raises(DataError, match="there is no folder"):
        index.update()
    photos.mkdir()
    assert index.update().total == 0
    assert len(index.search("red")) == 0 and not index.search("red").confident
    shutil.copytree(tmp_path / "kept", photos, dirs_exist_ok=True)
    assert index.update().total == 31
    assert_finds_what_is_there(index, photos)


def test_a_folder_that_was_moved_as_a_whole(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "elsewhere")
    assert index.update(tmp_path / "elsewhere").encoded == 0
    assert_finds_what_is_there(index, tmp_path / "elsewhere")


def test_another_folder_is_refused(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    paint(tmp_path / "other" / "a.png", (1, 2, 3))
    before = content(index.path)
    with pytest.raises(ConfigError, match="which is still there; make another index"):
        index.update(tmp_path / "other")
    assert content(index.path) == before


def rows_on_disk(index: ImageIndex) -> int:
    """In the only file of vectors: 4 numbers of 2 bytes each."""
    (file,) = index.path.glob("vectors-*")
    return file.stat().st_size // 8


def test_the_next_generation_has_live_rows_only(index: ImageIndex, photos: Path) -> None:
    paint(photos / "new.png", (7, 5, 9))
    index.update()
    for number in range(0, 30, 2):
        (photos / f"{number:03d}.png").unlink()
    index.update()
    assert (len(index), rows_on_disk(index)) == (17, 32)  # so much may come back
    index.compact()
    assert (rows_on_disk(index), [file.name for file in index.path.glob("vectors-*")]) == (17, ["vectors-1.f16"])
    assert_finds_what_is_there(index, photos)
    before = content(index.path)
    index.compact()
    assert content(index.path) == before


def test_updates_that_delete_little_each_make_a_generation_in_the_end(index: ImageIndex, photos: Path) -> None:
    for number in range(18):
        paint(photos / f"more{number}.png", (number, 5, 9))
        (photos / f"{number:03d}.png").unlink()
        index.update()
    assert rows_on_disk(index) <= 31 / (1 - store.DEAD_SHARE)
    assert_finds_what_is_there(index, photos)


def test_copies_share_a_vector(index: ImageIndex, photos: Path) -> None:
    for number in range(5):
        shutil.copy(photos / "holiday" / "red.png", photos / f"copy{number}.png")
    report = index.update()
    assert (len(report.added), report.encoded, rows_on_disk(index)) == (5, 0, 31)
    assert [hit.rank for hit in index.search("red", k=4)] == [1, 2, 3, 4]
    assert {hit.cosine for hit in index.search("red", k=6)} == {index.search("red", k=1)[0].cosine}
    assert_finds_what_is_there(index, photos)


def test_an_open_index_sees_the_updates_of_others(index: ImageIndex, photos: Path) -> None:
    other = ImageIndex.open(index.path, ColourEncoder())
    assert len(other.search("red", k=100)) == 31
    paint(photos / "new.png", (250, 0, 0))
    index.update()
    assert len(other.search("red", k=100)) == 32
    index.compact()
    assert_finds_what_is_there(other, photos)


def test_an_index_of_another_source(tmp_path: Path) -> None:
    def write(colours: list[tuple[int, int, int]]) -> None:
        images = [paint(tmp_path / "one.png", colour).read_bytes() for colour in colours]
        pq.write_table(
            pa.table({"image": [{"bytes": image, "path": None} for image in images]}), tmp_path / "a.parquet"
        )

    write([(255, 0, 0), (0, 255, 0), (9, 9, 9)])
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    report = index.update(tmp_path / "a.parquet")
    assert report.total == report.encoded == len(report.added) == 3
    hit = index.search("red", k=1)[0]
    assert hit.path is None and index.image(hit.id).getpixel((0, 0)) == (255, 0, 0)
    assert index.update().encoded == 0
    write([(255, 0, 0), (0, 0, 255), (9, 9, 9)])
    report = index.update()
    assert (len(report.changed), report.encoded, report.unchanged) == (1, 1, 2)


# ----------------------------------------------------------------------------------------------- queries


def test_texts_are_encoded_by_the_first_search_that_needs_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    encoded: list[str] = []
    real = ColourEncoder.encode_text
    monkeypatch.setattr(ColourEncoder, "encode_text", lambda self, texts: encoded.extend(texts) or real(self, texts))
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(photos)
    index.search(image=photos / "003.png")
    assert encoded == []
    first = index.search("red", k=1)
    assert sorted(encoded) == sorted(["red", *BACKGROUND_TEXTS])
    for again in (index, ImageIndex.open(tmp_path / "index", ColourEncoder())):
        assert again.search("red", k=1) == first
    assert encoded[len(BACKGROUND_TEXTS) + 1 :] == ["red", "red"]


def test_whether_words_can_be_looked_up_is_known_without_the_encoder(index: ImageIndex, tmp_path: Path) -> None:
    class OnlyImages:
        name, fingerprint = "blind to words", "1"
        encode_image = staticmethod(ColourEncoder().encode_image)

    assert ImageIndex.open(index.path).reads_texts
    ImageIndex.create(tmp_path / "other", OnlyImages())
    assert not ImageIndex.open(tmp_path / "other").reads_texts


def test_words_images_and_weights_add_up(index: ImageIndex, photos: Path) -> None:
    encoder = ColourEncoder()
    words = encoder.encode_text(["green", "white"]).numpy().astype(np.float64)
    picture = encoder.encode_image([photos / "003.png"]).numpy()[0].astype(np.float64)
    query = 2 * words[0] + 0.5 * picture - 0.7 * words[1]
    query /= np.linalg.norm(query)
    hits = index.search("green", image=photos / "003.png", minus="white", weights=[2, 0.5, 0.7], k=4)
    for hit in hits:
        vector = encoder.encode_image([hit.path]).numpy()[0]
        assert hit.cosine == pytest.approx(float(vector @ query), abs=2e-3)
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)


def test_an_image_finds_itself(index: ImageIndex, photos: Path) -> None:
    for image in (photos / "009.png", Image.open(photos / "009.png"), (photos / "009.png").read_bytes()):
        assert index.search(image=image, k=1)[0].id == "009.png"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "say in words, or with an image"),
        ({"text": ""}, "the query is empty"),
        ({"text": " \n"}, "the query is empty"),
        ({"text": "red", "k": 0}, "at least 1, not 0"),
        ({"text": "red", "k": -3}, "at least 1, not -3"),
        ({"minus": "red"}, "besides what it should not be"),
        ({"text": "red", "minus": "red"}, "cancel each other out"),
        ({"text": "red", "weights": [1, 2]}, "1 parts and 2 weights"),
        ({"text": "red", "weights": [float("nan")]}, "finite"),
    ],
)
def test_queries_that_make_no_sense(index: ImageIndex, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        index.search(**arguments)


def test_a_query_that_the_encoder_cannot_encode(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColourEncoder, "encode_text", lambda self, texts: torch.full((1, 4), torch.nan))
    with pytest.raises(ConfigError, match="colours gave the query no finite vector"):
        index.search("red")


def test_more_hits_than_images_and_words_of_any_language(index: ImageIndex) -> None:
    assert len(index.search("red", k=10**6)) == 31
    assert len(index.search("ein roter Ball 赤い \udcff\n", k=3)) == 3


# -------------------------------------------------------------------------------- who may use the index


def test_a_second_writer_is_refused(index: ImageIndex, photos: Path) -> None:
    paint(photos / "new.png", (5, 5, 5))
    with FileLock(index.path / ".lock"):
        for action in (index.update, index.compact):
            with pytest.raises(ConfigError, match="another process is updating the index"):
                ImageIndex.open(index.path, ColourEncoder())
                action()
        assert len(index.search("red", k=100)) == 31
    assert index.update().added == ("new.png",)


def test_an_index_of_another_model(index: ImageIndex) -> None:
    before = content(index.path)
    with pytest.raises(CheckpointError, match="colours has other weights now.*make the index again"):
        ImageIndex.open(index.path, ColourEncoder("colours/2"))
    assert content(index.path) == before


def test_a_newer_format_a_damaged_file_and_no_index(index: ImageIndex, tmp_path: Path) -> None:
    database = index.path / "index.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CheckpointError, match="format version 99, and this opsin reads up to 3; update opsin"):
        ImageIndex.open(index.path)
    database.write_bytes(b"no database at all, " * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        ImageIndex.open(index.path)
    with pytest.raises(CheckpointError, match="holds no index; make one with 'opsin index"):
        ImageIndex.open(tmp_path)
    with pytest.raises(ConfigError, match="holds an index already"):
        ImageIndex.create(index.path, ColourEncoder())
    with pytest.raises(ConfigError, match="in use for something else"):
        ImageIndex.create(tmp_path / "photos", ColourEncoder())


def test_a_file_deleted_since_is_reported(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    (photos / "holiday" / "red.png").unlink()
    results = index.search("red", k=2)
    assert [hit.missing for hit in results] == [True, False]
    write_contact_sheet(tmp_path / "sheet.html", "red", results, index.image)
    assert "the file has been deleted since" in (tmp_path / "sheet.html").read_text()


@pytest.mark.parametrize(
    "path", ["../secret.png", "/tmp/secret.png", "link/secret.png", "link.png", "a/../../secret.png"]
)
def test_a_tampered_path_leads_nowhere(index: ImageIndex, photos: Path, tmp_path: Path, path: str) -> None:
    secret = paint(tmp_path / "outside" / "secret.png", (7, 7, 7))
    shutil.copy(secret, tmp_path / "secret.png")
    (photos / "link").symlink_to(tmp_path / "outside")
    (photos / "link.png").symlink_to(secret)
    with closing(sqlite3.connect(index.path / "index.sqlite3")) as connection:
        connection.execute("UPDATE images SET path = ? WHERE path = ?", (path.encode(), b"holiday/red.png"))
        connection.commit()
    results = index.search("red", k=3)
    assert path not in [hit.id for hit in results]
    assert len(results.refused) == 1
    with pytest.raises(DataError):
        index.image(path)
    write_contact_sheet(tmp_path / "sheet.html", "red", results, index.image)
    assert (tmp_path / "sheet.html").read_text().count("<img") == 2


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    name = b"<script>alert(1)<%2E>\n\xff\"'&.png"
    paint(tmp_path / "photos" / "plain.png", (255, 0, 0)).rename(tmp_path / "photos" / os.fsdecode(name))
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(tmp_path / "photos")
    (hit,) = index.search("red")
    assert os.fsencode(hit.id) == name and hit.path.is_file()
    write_contact_sheet(tmp_path / "sheet.html", "<b>red</b>", index.search("red"), index.image)
    page = (tmp_path / "sheet.html").read_text()
    assert "<script" not in page and "<b>" not in page and "http:" not in page and "https:" not in page
    assert "&lt;script&gt;" in page and "data:image/jpeg;base64," in page
    (index.path / "x").unlink(missing_ok=True)
    assert index.update().unchanged == 1
