"""Downloads from a real server that breaks off, forgets, lies or is not there; and archives that mean harm."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from opsin import progress
from opsin.errors import DataError, OfflineError
from opsin.sources.prepare import RemoteFile, download, extract

from .file_server import FileServer, serve

CONTENT = np.random.default_rng(0).bytes(300_000)

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("OPSIN_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve(CONTENT) as running:
        yield running


def remote(server: FileServer, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile(server.url, hashlib.md5(content).hexdigest())


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"archive.tar.gz.lock"}


def test_file_arrives_under_its_name(server: FileServer, tmp_path: Path) -> None:
    path = download(remote(server), tmp_path / "new")
    assert path == tmp_path / "new" / "archive.tar.gz"
    assert path.read_bytes() == CONTENT
    assert files_in(path.parent) == {"archive.tar.gz"}


def test_progress_is_reported_where_it_is_asked_for(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0)
    download(remote(server), tmp_path / "a", progress=progress.ConsoleProgress())
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "archive.tar.gz 100%" in printed.err
    download(remote(server), tmp_path / "b")
    assert capsys.readouterr() == ("", "")


def test_file_that_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(CONTENT)
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == []


def test_damaged_file_that_is_there_is_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(CONTENT[:-1])
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_part_is_continued(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT[:1000])
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "archive.tar.gz.part").write_bytes(b"x" * 1000)
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_complete_part_only_gets_its_name(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT)
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_connection_that_drops_is_taken_up_again(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 120_000
    assert download(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=120000-", "bytes=240000-"]


def test_connection_that_brings_nothing_ends_with_the_part_kept(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(CONTENT[:1000])
    server.cut_after = 0
    with pytest.raises(
        OfflineError, match=r"closed after 1,000 of 300,000 bytes; 1,000 bytes have arrived and are kept"
    ):
        download(remote(server), tmp_path)
    assert files_in(tmp_path) == {"archive.tar.gz.part"}
    server.cut_after = None
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_length_need_not_be_known(server: FileServer, tmp_path: Path) -> None:
    server.states_length = False
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_other_content_is_refused_and_deleted(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another checksum"):
        download(remote(server, b"something else"), tmp_path)
    assert files_in(tmp_path) == set()


def test_part_of_another_file_is_deleted_and_the_next_call_succeeds(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="another checksum .* try again"):
        download(remote(server), tmp_path)
    assert download(remote(server), tmp_path).read_bytes() == CONTENT


def test_error_of_the_server(server: FileServer, tmp_path: Path) -> None:
    server.error = 404
    with pytest.raises(OfflineError, match=f"answered 404 Not Found.* put it into {tmp_path}"):
        download(remote(server), tmp_path)


def test_nobody_answers(server: FileServer, tmp_path: Path) -> None:
    gone = remote(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(OfflineError, match="the connection failed .*refused.* Fetch http://"):
        download(gone, tmp_path)


@pytest.mark.parametrize("name", ["OPSIN_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(OfflineError, match=f"this run is offline .*Fetch {server.url} where there is a network"):
        download(remote(server), tmp_path / "new")
    assert server.ranges == []
    assert not (tmp_path / "new").exists()
    (tmp_path / "archive.tar.gz").write_bytes(CONTENT)
    assert download(remote(server), tmp_path) == tmp_path / "archive.tar.gz"


def test_place_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        download(remote(server), tmp_path / "file" / "folder")


def test_full_disk_is_no_network_problem(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        download(remote(server), tmp_path)


def test_two_downloads_at_once_fetch_once(server: FileServer, tmp_path: Path) -> None:
    threads = [threading.Thread(target=download, args=(remote(server), tmp_path)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "archive.tar.gz").read_bytes() == CONTENT
    assert server.ranges == [None]


# -------------------------------------------------------------------------------------------- archives


def make_archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_extract(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("data")
    folder.type = tarfile.DIRTYPE
    members = [(folder, b""), (tarfile.TarInfo("data/a.bin"), b"abc"), (tarfile.TarInfo("data/deep/b.bin"), b"")]
    extract(make_archive(tmp_path / "a.tar.gz", members), tmp_path / "out")
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.bin")} == {
        "out/data/a.bin": b"abc",
        "out/data/deep/b.bin": b"",
    }


@pytest.mark.parametrize("name", ["../evil", "data/../../evil", "{outside}/evil"])
def test_archive_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    info = tarfile.TarInfo(name.format(outside=tmp_path))
    with pytest.raises(DataError, match="would land outside"):
        extract(make_archive(tmp_path / "a.tar.gz", [(info, b"x")]), tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


def test_links_in_an_archive_are_left_out(tmp_path: Path) -> None:
    link = tarfile.TarInfo("data")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    extract(make_archive(tmp_path / "a.tar.gz", [(link, b""), (tarfile.TarInfo("data/x"), b"x")]), tmp_path / "out")
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "out" / "data" / "x").read_bytes() == b"x"


@pytest.mark.parametrize("keep", [0, 20, 150_000])
def test_damaged_archive(tmp_path: Path, keep: int) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", [(tarfile.TarInfo("a"), CONTENT)])
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be unpacked"):
        extract(archive, tmp_path / "out")
    assert not list(tmp_path.rglob("out/*"))
