"""Zip and tar archives: the same layouts as in directories, and what is hostile in them."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from opsin.errors import DataError
from opsin.sources import archives
from opsin.sources.opening import open_labelled, open_source
from tests.conftest import encoded

Files = dict[str, bytes]
RED, BLUE = encoded("red"), encoded("blue")
CLASSES = {"cat/1.png": RED, "dog/1.png": BLUE}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    yield


def write_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path: Path, files: Files) -> None:
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tgz', 'gz').replace('tar', '')}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write(path: Path, files: Files) -> Path:
    (write_zip if path.suffix == ".zip" else write_tar)(path, files)
    return path


SUFFIXES = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("top", ["", "dataset/", "./", "a/b/"])
def test_class_folders(tmp_path: Path, suffix: str, top: str) -> None:
    files = {"__MACOSX/cat/._1.png": b"x", **{f"{top}{name}": content for name, content in CLASSES.items()}}
    source = open_labelled(str(write(tmp_path / f"photos.{suffix}", files)))
    assert source.ids == ["cat/1.png", "dog/1.png"]
    assert source.class_names == ("cat", "dog")
    assert [source.load(row).getpixel((0, 0)) for row in range(2)] == [(255, 0, 0), (0, 0, 255)]


def test_tables_captions_and_splits(tmp_path: Path) -> None:
    table = b"file;label\n1.png;x\n2.png;y\n"
    files = {"d/labels.csv": table, "d/1.png": RED, "d/2.png": BLUE, "d/2.txt": b"blue"}
    source = open_labelled(str(write(tmp_path / "a.zip", files)))
    assert (source.class_names, source.captions) == (("x", "y"), [(), ("blue",)])
    files = {f"{split}/{name}": content for split in ("train", "test") for name, content in CLASSES.items()}
    source = open_source(write(tmp_path / "b.tar", files))
    assert source.splits is not None
    assert source.splits.tolist() == ["test", "test", "train", "train"]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cat\\1.png", "dog\\1.png"], ("cat", "dog")),  # with the separators of Windows
        (["Käfer/1.png", "Köter/1.png"], ("Käfer", "Köter")),  # in UTF-8 that is not marked as such
    ],
)
def test_names_in_a_zip_of_other_systems(tmp_path: Path, names: list[str], classes: tuple[str, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, RED)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for place in range(len(content)):
        for start, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
            if content[place : place + 4] == start:
                content[place + offset] &= ~8 & 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    assert open_source(tmp_path / "a.zip").class_names == classes


def test_is_unpacked_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.zip", CLASSES)
    open_source(path)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_unpack", None)
        assert len(open_source(path)) == 2
    write(path, {**CLASSES, "dog/2.png": RED})
    assert len(open_source(path)) == 3
    assert len([entry for entry in (tmp_path / "cache/archives").glob("*/*") if entry.is_dir()]) == 1


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/tmp/opsin-out.png", "..\\out.png"])
def test_nothing_lands_outside(tmp_path: Path, suffix: str, name: str) -> None:
    path = write(tmp_path / f"a.{suffix}", {name: RED, **CLASSES})
    before = {entry for entry in tmp_path.rglob("*") if "cache" not in entry.parts}
    assert [id for id in open_source(path).ids if "out" not in id] == ["cat/1.png", "dog/1.png"]
    assert {entry for entry in tmp_path.rglob("*") if "cache" not in entry.parts} == before
    assert not Path("/tmp/opsin-out.png").exists()
    assert not [entry for entry in (tmp_path / "cache").rglob("*") if entry.name == "out.png" and suffix == "zip"]


def test_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(RED)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in CLASSES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target, kind in (
            ("cat/link.png", str(secret), tarfile.SYMTYPE),
            ("cat/same.png", "cat/1.png", tarfile.LNKTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    assert open_source(tmp_path / "a.tar").ids == ["cat/1.png", "cat/same.png", "dog/1.png"]


def bomb_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/1.png", "w") as file:
        for _ in range(20):
            file.write(bytes(2**20))


def bomb_of_files(path: Path) -> None:
    block = b"".join(tarfile.TarInfo(f"a/{number}.png").tobuf() for number in range(1000))
    with gzip.open(path, "wb") as file:
        for _ in range(2):
            file.write(block)


def bomb_in_a_header(path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 * 2**30
    with gzip.open(path, "wb", 1) as file:
        file.write(info.tobuf(tarfile.PAX_FORMAT))
        file.write(bytes(2**20))


@pytest.mark.parametrize(
    ("name", "bomb", "message"),
    [
        ("a.zip", bomb_of_zeros, "was refused: it unpacks to more than"),
        ("a.tar.gz", bomb_of_files, "was refused: it unpacks to more than"),
        ("a.tgz", bomb_in_a_header, "is damaged.*a header of"),
    ],
)
def test_bombs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bomb: Callable[[Path], None], message: str
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 2**20)
    monkeypatch.setattr(archives, "FILES_ALWAYS_ALLOWED", 1000)
    bomb(tmp_path / name)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)
    assert not [entry for entry in (tmp_path / "cache/archives").glob("*/*")]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.9])
def test_damaged_archive(tmp_path: Path, suffix: str, share: float) -> None:
    noise = [np.random.default_rng(seed).bytes(10_000) for seed in range(2)]
    path = write(tmp_path / f"a.{suffix}", {"cat/1.png": RED + noise[0], "dog/1.png": BLUE + noise[1]})
    path.write_bytes(path.read_bytes()[: round(share * 20_000)])
    with pytest.raises(DataError, match="is damaged"):
        open_source(path)


def test_tar_that_ends_in_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", CLASSES)
    path.write_bytes(path.read_bytes()[: 2 * tarfile.BLOCKSIZE + 100])
    with pytest.raises(DataError, match="is damaged.*its end is missing"):
        open_source(path)


def test_archive_with_a_password(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", CLASSES)
    content = bytearray(path.read_bytes())
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="locked by a password"):
        open_source(path)


def test_links_to_what_is_not_there_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for name, target, kind in (
            ("cat/later.png", "cat/1.png", tarfile.LNKTYPE),  # it stands before what it leads to
            ("cat/itself.png", "cat/itself.png", tarfile.LNKTYPE),
            ("cat/outside.png", "/etc/passwd", tarfile.LNKTYPE),
            ("cat/soft.png", "1.png", tarfile.SYMTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name, content in CLASSES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert open_source(path).ids == ["cat/1.png", "dog/1.png"]
    assert "4 images of" in caplog.text and "cat/later.png" in caplog.text


def test_names_on_drives_of_windows_lead_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "photos.zip", {**CLASSES, r"C:\photos\1.png": RED, "../up.png": RED})
    assert open_source(path).ids == ["cat/1.png", "dog/1.png"]
    assert "2 images of" in caplog.text


def test_archive_without_images_is_called_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.zip", {"a.txt": b"x"})
    with pytest.raises(DataError, match=r"no image was found in .*notes\.zip; tried"):
        open_source(path)
