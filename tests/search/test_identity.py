"""Whether a file is the one that was indexed: its size and time alone do not tell."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from opsin.cli.main import main
from opsin.search.collection import Entry, list_folder
from opsin.search.embedding import embed
from opsin.search.index import ImageIndex
from opsin.search.shards import read_rows, read_vectors
from tests.search.colours import ColourEncoder, assert_finds_what_is_there, load_colours, paint
from tests.search.test_interruptions import run_update

RED, BLUE = (255, 0, 0), (0, 0, 255)


def paint_alike(path: Path, colour: tuple[int, int, int]) -> Path:
    """Equal in size and time whatever the colour."""
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path, format="BMP")
    os.utime(path, ns=(10**18, 10**18))
    return path


def swap(first: Path, second: Path) -> None:
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)


def overwrite(first: Path, second: Path) -> None:
    """Each file keeps its inode and its times."""
    contents = first.read_bytes(), second.read_bytes()
    for path, content in zip((second, first), contents, strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "twins"
    red, blue = paint_alike(folder / "a.png", RED), paint_alike(folder / "b.png", BLUE)
    assert red.stat().st_size == blue.stat().st_size
    return red, blue


@pytest.mark.parametrize("change", [swap, overwrite])
def test_files_that_change_places(twins: tuple[Path, Path], tmp_path: Path, change: object) -> None:
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(twins[0].parent)
    assert index.search("red", k=1)[0].path == twins[0]
    assert callable(change)
    change(*twins)
    report = index.update()
    assert (set(report.changed), report.unchanged, report.encoded) == ({"a.png", "b.png"}, 0, 0)
    assert index.search("red", k=1)[0].path == twins[1]
    assert_finds_what_is_there(index, twins[0].parent)
    assert index.update().unchanged == 2


def test_embeddings_of_files_that_change_places(twins: tuple[Path, Path], tmp_path: Path) -> None:
    embed(twins[0].parent, tmp_path / "out", load_colours)
    swap(*twins)
    assert embed(twins[0].parent, tmp_path / "out", load_colours).written == 1
    rows = read_rows(tmp_path / "out", 0)
    assert [row.entry for row in rows] == list(list_folder(twins[0].parent).entries)
    expected = ColourEncoder().encode_image(twins).half().numpy()
    np.testing.assert_array_equal(read_vectors(tmp_path / "out", 0, 4), expected)


def test_a_parquet_file_that_is_replaced(tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"

    def write(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
        images = [paint(tmp_path / "x.png", colour).read_bytes() for colour in (first, second)]
        pq.write_table(pa.table({"image": [{"bytes": image, "path": None} for image in images]}), source)
        os.utime(source, ns=(10**18, 10**18))

    write(RED, BLUE)
    index = ImageIndex.create(tmp_path / "index", ColourEncoder())
    index.update(source)
    size = source.stat().st_size
    write(BLUE, RED)
    assert source.stat().st_size == size
    assert len(index.update().changed) == 2
    assert index.image(index.search("red", k=1)[0].id).getpixel((0, 0)) == RED


def test_an_interrupted_update_does_not_take_a_file_for_another(
    index: ImageIndex, photos: Path, twins: tuple[Path, Path]
) -> None:
    for path in twins:
        path.rename(photos / f"zz-{path.name}")
    killed = run_update(index.path, photos, 3)  # their vectors are noted by then
    assert killed.returncode == -9, killed.stderr
    assert index._store.database.staged().keys() == {"zz-a.png", "zz-b.png"}
    swap(photos / "zz-a.png", photos / "zz-b.png")
    assert index.update().encoded == 0
    assert_finds_what_is_there(index, photos)


def test_rehash_reads_what_nothing_says_has_changed(
    twins: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a file system that tells neither files nor times apart."""
    monkeypatch.setattr(Entry, "of_file", classmethod(lambda cls, id, status: Entry(id, status.st_size, 1, 1, 1)))
    folder, index = str(twins[0].parent), str(tmp_path / "index")
    assert main(["index", folder, "--out", index, "--quiet"]) == 0
    swap(*twins)
    reports = []
    for options in ([], ["--rehash"], ["--rehash"]):
        capsys.readouterr()
        assert main(["index", folder, "--out", index, "--quiet", "--json", *options]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report["unchanged"] for report in reports] == [2, 0, 2]
    assert [set(report["changed"]) for report in reports] == [set(), {"a.png", "b.png"}, set()]
    assert all(report["encoded"] == 0 for report in reports[1:])


def test_inodes_of_any_size_are_stored(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """Some file systems use all 64 bits; SQLite and Parquet have signed numbers."""
    status = os.stat_result([0o100644, 2**64 - 1, *[0] * 8])
    entry = Entry.of_file("a.png", status)
    assert 0 <= entry.inode < 2**63
