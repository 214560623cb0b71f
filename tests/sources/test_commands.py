"""`opsin data list`, `prepare` and `check`, and what they stand on in `opsin.sources.prepare`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from opsin.cli import main as cli
from opsin.errors import DataError
from opsin.sources import prepare
from opsin.sources.emoji import cache_directory
from opsin.sources.opening import open_source
from opsin.sources.prepare import RemoteFile
from tests.conftest import MakeImage

from .file_server import serve
from .test_cifar10 import write_batches

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own cache, and a network policy that is put back after `--offline` has changed it."""
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    for name in ("OPSIN_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    return tmp_path / "cache"


Printed = pytest.CaptureFixture[str]


# -------------------------------------------------------------------------------------------- list


def test_list_names_sources_and_what_is_missing(capsys: Printed, empty_cache: Path) -> None:
    assert cli.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "opsin data prepare emoji" in out
    assert "opsin data prepare cifar10" in out
    assert "FILE.parquet" in out
    assert not empty_cache.exists()


def test_list_as_json(capsys: Printed, emoji_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(emoji_cache))
    assert cli.main(["data", "list", "--json"]) == 0
    sources = json.loads(capsys.readouterr().out)["sources"]
    assert {row["source"]: row["ready"] for row in sources} == {"emoji": True, "cifar10": False}
    assert sources[0]["directory"] == str(cache_directory())


# -------------------------------------------------------------------------------------------- prepare


def test_prepare_emoji_that_are_there(capsys: Printed, emoji_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(emoji_cache))
    assert cli.main(["data", "prepare", "emoji", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"source": "emoji", "directory": str(cache_directory())}
    assert cli.main(["data", "prepare", "emoji"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("emoji is ready in ")
    assert printed.err == "next: opsin data check emoji\n"
    assert cli.main(["data", "prepare", "emoji", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_prepare_cifar10_offline_opens_no_socket(capsys: Printed, empty_cache: Path) -> None:
    """Sockets are disabled in the tests: opening one would be another error."""
    assert cli.main(["data", "prepare", "cifar10", "--offline"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("opsin: cifar-10-python.tar.gz could not be downloaded: this run is offline")
    assert f"put it into {empty_cache / 'cifar10'}" in line


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_prepare_cifar10(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    """From a server on this machine, in small; and once more where the archive was put there by a person."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_batches(tmp_path / "origin")
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "origin" / "cifar-10-batches-py", "cifar-10-batches-py")
    content = (tmp_path / "cifar.tar.gz").read_bytes()
    with serve(content) as server:
        remote = RemoteFile(server.url, hashlib.md5(content).hexdigest())
        monkeypatch.setattr(prepare, "CIFAR10", remote)
        assert cli.main(["data", "prepare", "cifar10"]) == 0
        assert capsys.readouterr().out == f"cifar10 is ready in {empty_cache / 'cifar10'}\n"
        assert len(open_source("cifar10")) == 18
        assert not list(empty_cache.rglob("*.tar.gz"))
        assert cli.main(["data", "prepare", "cifar10"]) == 0
        assert server.ranges == [None]
    (empty_cache / "cifar10" / "cifar-10-batches-py" / "test_batch").unlink()
    assert cli.main(["data", "prepare", "cifar10", "--offline"]) == 1
    (empty_cache / "cifar10" / remote.name).write_bytes(content)
    assert cli.main(["data", "prepare", "cifar10", "--offline"]) == 0
    assert len(open_source("cifar10")) == 18


def test_only_named_sources_can_be_prepared(capsys: Printed, tmp_path: Path) -> None:
    assert cli.main(["data", "prepare", "cifar-10"]) == 1
    assert "did you mean 'cifar10'?" in capsys.readouterr().err
    with pytest.raises(DataError, match="no source that can be prepared; there are emoji, cifar10"):
        prepare.prepare_source(str(tmp_path))


# -------------------------------------------------------------------------------------------- check


@pytest.fixture
def folder(make_image: MakeImage, tmp_path: Path) -> Path:
    """Two classes, one broken file, one image twice, in a folder whose name has a space."""
    make_image("my pets/cat/1.png", "red")
    make_image("my pets/cat/2.png", "red")
    make_image("my pets/dog/1.png", "blue", (5, 7))
    (tmp_path / "my pets" / "dog" / "2.jpg").write_text("no image")
    return tmp_path / "my pets"


def test_check_as_table(folder: Path, capsys: Printed) -> None:
    assert cli.main(["data", "check", str(folder)]) == 0
    printed = capsys.readouterr()
    cells = {tuple(line.split()) for line in printed.out.splitlines()}
    assert {
        ("images", "3"),
        ("cat", "2"),
        ("dog", "1"),
        ("smallest", "5", "x", "7"),
        ("largest", "8", "x", "8"),
    } <= cells
    assert "left out  dog/2.jpg is " in printed.out
    assert "identical cat/1.png = cat/2.png" in printed.out
    assert printed.err.splitlines()[-1] == f"next: opsin train vit --data '{folder}' --out RUN"


def test_folders_by_date_are_no_classes_to_train_on(tmp_path: Path, make_image: MakeImage, capsys: Printed) -> None:
    for name in ("2019", "2020-06 Rome", "20210624"):
        make_image(tmp_path / name / "1.png")
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"next: opsin index {tmp_path} --out INDEX"


def test_check_as_json_is_one_document_and_quiet_is_silent(folder: Path, capsys: Printed) -> None:
    assert cli.main(["data", "check", str(folder), "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert report["count"] == 3
    assert report["classes"] == {"cat": 2, "dog": 1}
    assert report["duplicates"] == [["cat/1.png", "cat/2.png"]]
    assert [row["id"] for row in report["broken"]] == ["dog/2.jpg"]


def test_many_duplicates_are_not_all_printed(make_image: MakeImage, tmp_path: Path, capsys: Printed) -> None:
    for index in range(25):
        for copy in "ab":
            make_image(f"many/{index:02d}{copy}.png", (index, 0, 0))
    assert cli.main(["data", "check", str(tmp_path / "many"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.count("identical ") == 22  # a count, 20 groups, and how many more there are
    assert "5 more groups" in out


def test_check_of_nothing(tmp_path: Path, capsys: Printed) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.main(["data", "check", str(tmp_path / "empty")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("opsin: no image was found in ")


# -------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "opsin data prepare NAME"),
        (["chek"], "unknown action 'chek'; did you mean 'check'?"),
        (["xyzzy"], "there are list, prepare, check"),
        (["check"], "SRC must be given"),
        (["prepare", "emoji", "--quite"], "--quite"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: Printed) -> None:
    assert cli.main(["data", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


def test_help(capsys: Printed) -> None:
    assert cli.main(["data", "--help"]) == 0
    assert "usage: opsin data list | prepare NAME | check SRC" in capsys.readouterr().out
    for action in ("list", "prepare", "check"):
        assert cli.main(["data", action, "--help"]) == 0
        assert f"opsin data {action}" in capsys.readouterr().out


def test_list_does_not_import_torch(empty_cache: Path) -> None:
    code = "from opsin.cli.main import main, sys; main(['data', 'list']); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
