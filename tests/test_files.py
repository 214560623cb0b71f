"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from opsin.errors import CheckpointError
from opsin.files import atomic_write, write_json


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
    refused = pytest.raises(CheckpointError, match="could not be written .*what it held before is kept")
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
