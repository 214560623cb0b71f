"""What an index follows is what it was made of, whatever lies there now, and nothing is lost to a missing drive."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opsin.errors import CheckpointError, ConfigError
from opsin.search import database
from opsin.search.confidence import chance_level
from opsin.search.database import DATABASE
from opsin.search.embedding import embed
from opsin.search.index import ImageIndex
from opsin.search.query import query_terms
from opsin.search.snapshot import read_snapshot
from tests.search.colours import ColourEncoder, assert_finds_what_is_there, load_colours, paint, paint_many


def write_parquet(path: Path, image: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": image.read_bytes(), "path": None}]}), path)


def test_a_table_beside_the_photos_changes_nothing(index: ImageIndex, photos: Path) -> None:
    write_parquet(photos / "export.parquet", photos / "000.png")
    pq.write_table(pa.table({"number": [1]}), photos / "numbers.parquet")
    report = index.update()
    assert (report.unchanged, report.total, report.deleted) == (31, 31, ())
    assert_finds_what_is_there(index, photos)


def test_a_folder_that_is_away_is_not_replaced_by_another(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "away")
    paint(tmp_path / "other" / "a.png", (1, 2, 3))
    with pytest.raises(ConfigError, match="knows nothing of what is given; make another index"):
        index.update(tmp_path / "other")
    (tmp_path / "away").rename(photos)
    assert index.update().unchanged == 31


def test_a_table_is_not_replaced_by_a_folder(photos: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "one.parquet", photos / "000.png")
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(tmp_path / "one.parquet")
    with pytest.raises(ConfigError, match="make another index"):
        index.update(photos)
    assert len(index) == 1


def test_vectors_outlast_a_drive_that_is_not_connected(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "away")
    photos.mkdir()
    for _ in range(2):
        assert index.update().total == 0
    photos.rmdir()
    (tmp_path / "away").rename(photos)
    report = index.update()
    assert (report.total, report.encoded) == (31, 0)
    assert_finds_what_is_there(index, photos)


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    photos = tmp_path / os.fsdecode(b"ba\xffd")
    paint_many(photos, 5)
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    assert index.update(photos).total == 5
    assert index.source == str(photos)
    assert index.update().unchanged == 5
    assert_finds_what_is_there(index, photos)


def test_an_index_is_created_as_a_whole_or_not_at_all(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(database.os, "replace", stop)
        ImageIndex.create(tmp_path / "index", ColourEncoder())
    with pytest.raises(CheckpointError, match="holds no index"):
        ImageIndex.open(tmp_path / "index")
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    assert index.update(photos).total == 31
    assert {path.name for path in index.path.iterdir() if path.suffix == ".tmp"} == set()


def test_a_snapshot_is_of_one_moment(index: ImageIndex, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process commits right after a reader has read the database."""
    writer = ImageIndex.open(index.path, ColourEncoder())
    view = database.Database.view

    def viewed(self: database.Database, *, live: bool = False) -> database.View:
        result = view(self, live=live)
        if self is index._store.database:
            paint(photos / "new.png", (1, 1, 1))
            (photos / "000.png").unlink()
            writer.update()
        return result

    monkeypatch.setattr(database.Database, "view", viewed)
    snapshot = read_snapshot(index._store, "exact")
    assert snapshot.size == len(snapshot.sample) == len(snapshot.vectors) == 31


def test_a_new_time_of_a_table_is_noted_once(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "one.parquet"
    write_parquet(table, photos / "000.png")
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(table)
    os.utime(table, (1, 1))
    index.update()
    before = (index.path / DATABASE).read_bytes()
    assert index.update().unchanged == 1
    assert (index.path / DATABASE).read_bytes() == before


@pytest.mark.parametrize("kind", ["table", "coco"])
def test_changed_files_of_a_table_are_noticed(kind: str, photos: Path, tmp_path: Path) -> None:
    names = ["000.png", "001.png", "002.png"]
    (photos / "some.csv").write_text("file,label\n" + "".join(f"{name},x\n" for name in names))
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    (photos / "captions_train.json").write_text(json.dumps({"images": images, "annotations": []}))
    source = str(photos / "some.csv") if kind == "table" else f"coco:{photos}"
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    assert len(index.update(source).added) == 3
    assert index.update().unchanged == 3
    paint(photos / "001.png", (1, 2, 3))
    report = index.update()
    assert (report.changed, report.unchanged) == (("001.png",), 2)
    assert index.search(image=photos / "001.png", k=1)[0].cosine == pytest.approx(1, abs=1e-5)


def test_a_share_of_broken_images_is_no_failure(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.png", (1, 2, 3))
    (tmp_path / "photos" / "b.png").write_bytes(b"no image")
    reports = [
        embed(tmp_path / "photos", tmp_path / "out", load_colours, part=(part, 2), rows_per_shard=1) for part in (0, 1)
    ]
    assert [(report.rows, len(report.skipped)) for report in reports] == [(1, 0), (0, 1)]
    assert reports[1].complete


def test_nothing_stands_out_where_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    paint_many(tmp_path / "photos", 3)
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(tmp_path / "photos")
    results = index.search(image=sorted((tmp_path / "photos").iterdir()))
    assert (results.standout, results.confident, len(results)) == (0.0, False, 3)
    alike = ColourEncoder().encode_image([paint(tmp_path / "x.png", (9, 9, 9))] * 5).numpy()
    assert chance_level(query_terms((), [tmp_path / "x.png"], (), None), alike[:0], alike) is None
