"""Damaged indexes, and those of an earlier opsin: a search says what to do, and `opsin index` does it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import opsin
from opsin.errors import CheckpointError, OpsinError
from opsin.search.database import DATABASE, DROP_TABLES
from opsin.search.index import ImageIndex
from tests.search.colours import ColourEncoder, assert_finds_what_is_there, paint, paint_many
from tests.search.test_interruptions import run_update

MENDS = "run 'opsin index .*/photos --out .*/index', which encodes"


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_half(path: Path) -> None:
    """The file stays as long as it was, and the array in it readable."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def remove(path: Path) -> None:
    path.unlink()


def execute(index: Path, *statements: str) -> None:
    with closing(sqlite3.connect(index / DATABASE)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def two_shards(index: ImageIndex, photos: Path) -> ImageIndex:
    """31 images in one shard, and 5 in another; one row of the first has no image."""
    (photos / "000.png").unlink()
    paint_many(photos / "more", 5, seed=1)
    index.update()
    return ImageIndex.open(index.path, ColourEncoder())


# ------------------------------------------------------------------------------------------------ vectors


@pytest.mark.parametrize("harm", [halve, zero_half, remove])
def test_damaged_vectors_are_noticed_and_made_again(
    two_shards: ImageIndex, photos: Path, harm: Callable[[Path], None]
) -> None:
    before = list(two_shards.search("red", k=100))
    harm(two_shards.path / "000001.npy")
    for index in (two_shards, ImageIndex.open(two_shards.path, ColourEncoder())):
        with pytest.raises(CheckpointError, match=f"shard 1 are lost or altered; {MENDS}"):
            index.search("red")
        with pytest.raises(CheckpointError, match=MENDS):
            index.compact()
    report = two_shards.update()
    assert (len(report.repaired), report.encoded, report.unchanged, report.total) == (5, 5, 30, 35)
    assert report.added == report.changed == report.deleted == ()
    assert list(two_shards.search("red", k=100)) == before
    assert_finds_what_is_there(two_shards, photos)
    assert two_shards.update().repaired == ()
    assert not (two_shards.path / "000001.npy").exists()


def test_images_that_changed_or_went_with_their_vectors(two_shards: ImageIndex, photos: Path) -> None:
    """Repair and the rest of an update at once, with the shard that has a row without an image."""
    shutil.copy(photos / "001.png", photos / "more" / "copy.png")
    (photos / "001.png").rename(photos / "renamed.png")
    (photos / "002.png").unlink()
    paint(photos / "003.png", (9, 9, 9))
    (photos / "004.png").write_bytes(b"no image any more")
    remove(two_shards.path / "000000.npy")
    report = two_shards.update()
    assert set(report.added) == {"renamed.png", "more/copy.png"}
    assert (report.changed, set(report.deleted)) == (("003.png",), {"001.png", "002.png", "004.png"})
    assert (len(report.repaired), report.total) == (26, 34)
    (photos / "004.png").unlink()
    two_shards.update()
    assert_finds_what_is_there(two_shards, photos)


def test_a_repair_that_is_killed_goes_on(two_shards: ImageIndex, photos: Path) -> None:
    zero_half(two_shards.path / "000000.npy")
    killed = run_update(two_shards.path, photos, 8)  # two shards of seven images are on disk by then
    assert killed.returncode == -9, killed.stderr
    with pytest.raises(CheckpointError, match=MENDS):
        two_shards.search("red")
    report = two_shards.update()
    assert (len(report.repaired), report.encoded) == (30, 30 - 14)
    assert_finds_what_is_there(two_shards, photos)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM images WHERE path LIKE 'more/%'",
        "DELETE FROM tombstones",
        "DELETE FROM shards WHERE number = 1",
        "UPDATE shards SET rows = 4 WHERE number = 1",
        "UPDATE shards SET sha256 = 'x'",
        "UPDATE images SET row = 99 WHERE row = 3",
        "UPDATE tombstones SET row = -1",
        "UPDATE images SET shard = 7 WHERE shard = 1",
    ],
)
def test_a_database_that_does_not_fit_the_vectors(two_shards: ImageIndex, photos: Path, statement: str) -> None:
    execute(two_shards.path, statement)
    if "sha256" in statement or "rows" in statement or "row = -1" in statement:
        with pytest.raises(CheckpointError, match=MENDS):
            two_shards.search("red", k=100)
    two_shards.update()
    assert_finds_what_is_there(two_shards, photos)


# ----------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'many' WHERE key = 'dim'",
        "UPDATE meta SET value = '-4' WHERE key = 'dim'",
        "UPDATE meta SET value = X'80' WHERE key = 'revision'",
        "DELETE FROM meta WHERE key = 'next_shard'",
        "DROP TABLE meta",
        "DROP TABLE images",
        "UPDATE images SET size = 'large'",
        "UPDATE images SET path = X'80' WHERE path = '001.png'",
        "UPDATE shards SET rows = 'x'",
        "UPDATE tombstones SET row = 1.5",
    ],
)
def test_damaged_metadata_end_in_a_sentence(two_shards: ImageIndex, statement: str) -> None:
    execute(two_shards.path, statement)
    refused = pytest.raises(
        CheckpointError, match=r"index.sqlite3 is damaged \(.*\); remove .* and make the index again"
    )
    with refused:
        ImageIndex.open(two_shards.path, ColourEncoder()).update()
    with contextlib.suppress(CheckpointError):  # which may not read what is damaged
        ImageIndex.open(two_shards.path, ColourEncoder()).search("red", k=100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no index of opsin; make the index again"),
        (b"no database at all" * 100, "is damaged .* make the index again"),
        (b"SQLite format 3\0" + bytes(100), "is damaged .* make the index again"),
    ],
)
def test_a_file_that_is_no_database(index: ImageIndex, content: bytes, message: str) -> None:
    (index.path / DATABASE).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        ImageIndex.open(index.path)


def test_a_database_with_a_damaged_page(two_shards: ImageIndex, photos: Path) -> None:
    """Whatever page it is, the end is a sentence or an index that finds what is there."""
    database = two_shards.path / DATABASE
    content = database.read_bytes()
    for start in range(0, len(content), 4096):
        database.write_bytes(content[:start] + b"\xa5" * 4096 + content[start + 4096 :])
        try:
            index = ImageIndex.open(two_shards.path, ColourEncoder())
            index.update()
            index.search("red", k=100)
        except OpsinError as error:
            assert "damaged" in str(error) or "could not be read" in str(error) or "again" in str(error)
    database.write_bytes(content)


def test_what_is_no_index(tmp_path: Path, index: ImageIndex) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="holds no index; make one with"):
        ImageIndex.open(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is a file; an index is a directory"):
        ImageIndex.open(tmp_path / "file")
    (index.path / DATABASE).unlink()
    (index.path / DATABASE).mkdir()
    with pytest.raises(CheckpointError, match="is no index of opsin"):
        ImageIndex.open(index.path)


WITHOUT_RIGHTS = """
import os, sys
import opsin.cli.index, opsin.cli.search, opsin.search.index
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
from opsin.cli.main import main
codes = [main(["search", sys.argv[1], "red"]), main(["index", sys.argv[2], "--out", sys.argv[1], "--quiet"])]
raise SystemExit(f"codes {codes}")
"""


@pytest.mark.skipif(os.name != "posix", reason="rights are others here")
def test_a_directory_without_permission(index: ImageIndex, photos: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):  # pytest's own are for their user only
        folder.chmod(0o755)
    index.path.chmod(0)
    environment = {**os.environ, "PYTHONPATH": str(Path(opsin.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WITHOUT_RIGHTS, str(index.path), str(photos)]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    finally:
        index.path.chmod(0o755)
    *complaints, codes = result.stderr.splitlines()
    assert codes == "codes [1, 1]", result.stderr
    assert all("cannot be read" in line and "Permission denied" in line for line in complaints), complaints
    assert len(complaints) == 2


# ------------------------------------------------------------------------------------- of an earlier opsin

TABLES_OF_FORMAT_1 = """
CREATE TABLE shards (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
CREATE TABLE images (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL,
    shard INTEGER NOT NULL, row INTEGER NOT NULL
);
CREATE TABLE tombstones (
    shard INTEGER NOT NULL, row INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (shard, row)
);
CREATE TABLE skipped (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, reason TEXT NOT NULL);
"""


@pytest.fixture
def outdated(index: ImageIndex) -> ImageIndex:
    """The index as an earlier opsin had it."""
    images = index._database.images().values()
    execute(index.path, *DROP_TABLES.split(";"), *TABLES_OF_FORMAT_1.split(";"), "PRAGMA user_version = 1")
    with closing(sqlite3.connect(index.path / DATABASE)) as connection:
        connection.execute("INSERT INTO shards VALUES (0, 31)")
        rows = [(known.entry.id, *known.entry[1:3], known.digest, *known.place) for known in images]
        connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    return ImageIndex.open(index.path, ColourEncoder())


def test_an_index_of_an_earlier_opsin_is_made_anew(outdated: ImageIndex, photos: Path) -> None:
    assert (outdated.is_outdated, len(outdated), outdated.source) == (True, 31, str(photos))
    for refused in (lambda: outdated.search("red"), outdated.compact):
        with pytest.raises(CheckpointError, match=f"turned some photos the wrong way; {MENDS} all images again"):
            refused()
    report = outdated.update()
    assert (report.encoded, report.total, outdated.is_outdated) == (31, 31, False)
    assert_finds_what_is_there(outdated, photos)
    assert {path.stem for path in outdated.path.glob("*.npy")} == {"000001"}
    assert outdated.update().unchanged == 31


def test_shards_that_an_earlier_opsin_left_are_not_used(outdated: ImageIndex, photos: Path) -> None:
    paint_many(photos / "more", 3, seed=1)
    for suffix in ("npy", "parquet", "json"):
        shutil.copy(outdated.path / f"000000.{suffix}", outdated.path / f"000001.{suffix}")
    description = outdated.path / "000001.json"
    description.write_text(description.read_text().replace("colours/1 2", "colours/1"))
    assert outdated.update().encoded == 34
    assert_finds_what_is_there(outdated, photos)


def test_making_it_anew_can_be_killed(outdated: ImageIndex, photos: Path) -> None:
    killed = run_update(outdated.path, photos, 8)
    assert killed.returncode == -9, killed.stderr
    assert outdated.update().encoded == 31 - 14
    assert_finds_what_is_there(outdated, photos)


def test_an_outdated_index_stays_while_its_folder_is_away(outdated: ImageIndex, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(OpsinError, match="there is no folder"):
        outdated.update()
    assert (outdated.is_outdated, len(outdated)) == (True, 31)
    assert outdated.update(tmp_path / "elsewhere").total == 31


# -------------------------------------------------------------------------------------- temporary files


def test_temporary_files_of_a_killed_update_are_removed(index: ImageIndex, photos: Path) -> None:
    paint_many(photos / "more", 28, seed=1)
    assert run_update(index.path, photos, 5).returncode == -9
    assert len(list(index.path.glob(".*.tmp"))) == 1
    for path in (photos / "more").iterdir():  # so that the file is not written again
        path.unlink()
    index.update()
    assert list(index.path.glob(".*.tmp")) == []
