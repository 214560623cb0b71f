"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import opsin
from opsin.errors import CheckpointError
from opsin.files import atomic_write, remove_leftovers, temporary_directory, write_json


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half of tw")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one"
    with atomic_write(path) as file:
        file.write(b"two")
        file.flush()
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert names_in(path.parent) == ["file"]


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"one")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "file")
    write_json(link, [1])
    assert link.is_symlink()
    assert json.loads((tmp_path / "elsewhere" / "file").read_text()) == [1]
    assert names_in(tmp_path / "elsewhere") == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    """As /dev/stdout, which would be replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, [1])
        assert json.loads(os.read(reader, 100)) == [1]
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert names_in(tmp_path) == ["pipe"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    refused = pytest.raises(CheckpointError, match="could not be written: .*; what it held before is kept")
    with refused, atomic_write(tmp_path / "file") as file:
        file.write(b"new")
        raise OSError(28, "No space left on device")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "inside", tmp_path / "folder"):
        with pytest.raises(CheckpointError, match="could not be written"), atomic_write(place) as file:
            file.write(b"x")
    assert names_in(tmp_path) == ["file", "folder"]


# ------------------------------------------------------------------------------- what killed writers leave

WRITER = """
import os, signal, sys, time
from pathlib import Path
from opsin.files import atomic_write, temporary_directory
if sys.argv[1] == "file":
    with atomic_write("place") as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(600)
with temporary_directory(Path("place").absolute()) as staging:
    (staging / "part").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


@contextmanager
def writer(directory: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of writing `place`; it is killed at the end if it still runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(opsin.__file__).parents[1])}
    command = [sys.executable, "-c", WRITER, kind]
    with subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"writing\n"
            yield process
        finally:
            process.kill()


def replace_place(directory: Path, kind: str) -> None:
    if kind == "file":
        write_json(directory / "place", [1])
        return
    with temporary_directory(directory / "place") as staging:
        os.rename(staging, directory / "place")


@pytest.mark.skipif(os.name != "posix", reason="directories cannot be locked here")
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_stays(tmp_path: Path, kind: str) -> None:
    others = [".place.tmp", ".place.notes.tmp", ".other.0123abcd.tmp", ".place.0123abcd.tmp.txt", "place.0123abcd.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"not opsin's, or not of this place")
    with writer(tmp_path, kind) as process:
        (temporary,) = set(names_in(tmp_path)) - set(others)
        replace_place(tmp_path, kind)
        assert names_in(tmp_path) == sorted([*others, "place", temporary])
        process.kill()
        process.wait()
    assert (tmp_path / temporary).exists()
    if kind == "directory":
        os.rmdir(tmp_path / "place")
    replace_place(tmp_path, kind)
    assert names_in(tmp_path) == sorted([*others, "place"])
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == sorted([*others[:2], *others[3:], "place"])


def test_threads_that_write_the_same_file_do_not_remove_each_others(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            write_json(tmp_path / "file", [number] * 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(json.loads((tmp_path / "file").read_text()))) == 1
    assert names_in(tmp_path) == ["file"]
