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
from opsin.search import store
from opsin.search.database import DATABASE
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
def blocks(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> ImageIndex:
    """36 rows in blocks of 8, the last one of 4; one row of the first has no image."""
    monkeypatch.setattr(store, "BLOCK_ROWS", 8)
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(photos)
    (photos / "000.png").unlink()
    paint_many(photos / "more", 5, seed=1)
    index.update()
    return ImageIndex.open(index.path, ColourEncoder())


def file_of(index: ImageIndex) -> Path:
    (file,) = index.path.glob("vectors-*")
    return file


# ------------------------------------------------------------------------------------------------ vectors


@pytest.mark.parametrize(("harm", "lost"), [(halve, 3), (zero_half, 3), (remove, 5)])
def test_damaged_vectors_are_noticed_and_made_again(
    blocks: ImageIndex, photos: Path, harm: Callable[[Path], None], lost: int
) -> None:
    before = list(blocks.search("red", k=100))
    harm(file_of(blocks))
    for index in (blocks, ImageIndex.open(blocks.path, ColourEncoder())):
        with pytest.raises(CheckpointError, match=f"{lost} of 5 blocks of vectors are lost or altered; {MENDS}"):
            index.search("red")
        with pytest.raises(CheckpointError, match=MENDS):
            index.compact()
    report = blocks.update()
    repaired = {5: 35, 3: 20}[lost]
    assert (len(report.repaired), report.encoded, report.total) == (repaired, repaired, 35)
    assert report.unchanged == 35 - repaired
    assert report.added == report.changed == report.deleted == ()
    assert list(blocks.search("red", k=100)) == before
    assert_finds_what_is_there(blocks, photos)
    assert blocks.update().repaired == ()
    assert file_of(blocks).name == "vectors-1.f16"


def test_images_that_changed_or_went_with_their_vectors(blocks: ImageIndex, photos: Path) -> None:
    """Repair and the rest of an update at once."""
    shutil.copy(photos / "001.png", photos / "more" / "copy.png")
    (photos / "001.png").rename(photos / "renamed.png")
    (photos / "002.png").unlink()
    paint(photos / "003.png", (9, 9, 9))
    (photos / "004.png").write_bytes(b"no image any more")
    remove(file_of(blocks))
    report = blocks.update()
    assert {*report.added, *(new for _, new in report.moved)} == {"renamed.png", "more/copy.png"}
    assert (report.changed, set(report.deleted)) == (("003.png",), {"002.png", "004.png"})
    assert (len(report.repaired), report.total) == (31, 34)
    (photos / "004.png").unlink()
    blocks.update()
    assert_finds_what_is_there(blocks, photos)


def test_a_repair_that_is_killed_goes_on(blocks: ImageIndex, photos: Path) -> None:
    remove(file_of(blocks))
    killed = run_update(blocks.path, photos, 7)  # two for the new file, and two for each of two parts of seven images
    assert killed.returncode == -9, killed.stderr
    with pytest.raises(CheckpointError, match=f"some of its images have no vectors; {MENDS}"):
        blocks.search("red")
    report = blocks.update()
    assert len(report.repaired) == report.encoded == 35 - 14
    assert_finds_what_is_there(blocks, photos)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM images WHERE size > 0",
        "DELETE FROM vectors WHERE row = 3",
        "DELETE FROM vectors",
        "DELETE FROM blocks WHERE start = 8",
        "DELETE FROM blocks",
        "UPDATE blocks SET rows = 7 WHERE start = 0",
        "UPDATE blocks SET rows = -1 WHERE start = 32",
        "UPDATE blocks SET rows = 800 WHERE start = 32",
        "UPDATE blocks SET sha256 = 'x'",
        "UPDATE vectors SET row = 99 WHERE row = 3",
        "UPDATE vectors SET row = -1 WHERE row = 3",
        "UPDATE meta SET value = '7' WHERE key = 'generation'",
    ],
)
def test_a_database_that_does_not_fit_the_vectors(blocks: ImageIndex, photos: Path, statement: str) -> None:
    execute(blocks.path, statement)
    if "images" not in statement:
        with pytest.raises(CheckpointError, match=MENDS):
            ImageIndex.open(blocks.path, ColourEncoder()).search("red", k=100)
    blocks.update()
    assert_finds_what_is_there(blocks, photos)


# ----------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'many' WHERE key = 'dim'",
        "UPDATE meta SET value = '-4' WHERE key = 'dim'",
        "UPDATE meta SET value = X'80' WHERE key = 'revision'",
        "DELETE FROM meta WHERE key = 'generation'",
        "UPDATE meta SET value = '1e9' WHERE key = 'generation'",
        "UPDATE meta SET value = '[[[[' WHERE key = 'exclude'",
        "DROP TABLE meta",
        "DROP TABLE images",
        "UPDATE images SET size = 'large'",
        "UPDATE images SET path = 'text' WHERE path = X'3030312e706e67'",
        "UPDATE blocks SET rows = 'x'",
        "UPDATE vectors SET row = 1.5 WHERE row = 1",
    ],
)
def test_damaged_metadata_end_in_a_sentence(blocks: ImageIndex, statement: str) -> None:
    execute(blocks.path, statement)
    refused = pytest.raises(
        CheckpointError, match=r"index.sqlite3 is damaged \(.*\); remove .* and make the index again"
    )
    with refused:
        ImageIndex.open(blocks.path, ColourEncoder()).update()
    with contextlib.suppress(CheckpointError):  # which may not read what is damaged
        ImageIndex.open(blocks.path, ColourEncoder()).search("red", k=100)


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


def test_a_database_with_a_damaged_page(blocks: ImageIndex, photos: Path) -> None:
    """Whatever page it is, the end is a sentence or an index that finds what is there."""
    database = blocks.path / DATABASE
    content = database.read_bytes()
    for start in range(0, len(content), 4096):
        database.write_bytes(content[:start] + b"\xa5" * 4096 + content[start + 4096 :])
        try:
            index = ImageIndex.open(blocks.path, ColourEncoder())
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


@pytest.mark.parametrize(("version", "source"), [(1, "photos"), (2, "my %2525%FF")])
def test_an_index_of_an_earlier_opsin_says_how_to_make_it_anew(index: ImageIndex, version: int, source: str) -> None:
    meta = {"encoder": "emoji-clip", "source": source}
    execute(index.path, "DELETE FROM meta", f"PRAGMA user_version = {version}")
    execute(index.path, *(f"INSERT INTO meta VALUES ('{key}', '{value}')" for key, value in meta.items()))
    before = {path.name: path.read_bytes() for path in index.path.iterdir() if path.is_file()}
    shown = {"photos": "photos", "my %2525%FF": r"'my %25\udcff'"}[source]
    for use in (lambda: ImageIndex.open(index.path), lambda: ImageIndex.open(index.path, ColourEncoder())):
        with pytest.raises(CheckpointError) as refusal:
            use()
        assert f"(format version {version}, this opsin reads 3)" in str(refusal.value)
        assert f"'opsin index {shown} --out {index.path} --model emoji-clip'" in str(refusal.value)
    assert {path.name: path.read_bytes() for path in index.path.iterdir() if path.is_file()} == before


# -------------------------------------------------------------------------------------- temporary files


def test_temporary_files_of_a_killed_writer_are_removed(index: ImageIndex, photos: Path) -> None:
    leftovers = [index.path / name for name in (".vectors-1.f16.0123abcd.tmp", "vectors-1.f16", "vectors-7.f16")]
    for path in leftovers:
        path.write_bytes(b"x" * 8)
    index.update()
    assert not any(path.exists() for path in leftovers)
    assert_finds_what_is_there(index, photos)
