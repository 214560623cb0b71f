"""An update that is killed, or runs out of disk, leaves the index as it was; the next one goes on from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from opsin.errors import Cancelled
from opsin.images.opening import ImageLike, open_image
from opsin.progress import Progress
from opsin.search import store
from opsin.search.index import ImageIndex
from opsin.search.snapshot import ExactIndex
from tests.search.colours import ColourEncoder, assert_finds_what_is_there, paint, paint_many

ROOT = Path(__file__).parents[2]
UPDATE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from opsin.search import store, update
from opsin.search.index import ImageIndex
from tests.search.colours import ColourEncoder
update.STAGED_ROWS = 7
step, target = 0, int(sys.argv[3])

def counted(function):
    def call(*arguments, **options):
        global step
        step += 1
        if step == target:
            {accident}
        return function(*arguments, **options)
    return call

store.os.fsync = counted(os.fsync)  # between the vectors and the database
store.Database.stage = counted(store.Database.stage)
store.Database.apply = counted(store.Database.apply)
encoder = ColourEncoder()
index = ImageIndex.open(sys.argv[1], encoder)
index.update(sys.argv[2])
print(encoder.images_encoded)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))"


def run_update(index: Path, photos: Path, step: int, accident: str = KILL) -> subprocess.CompletedProcess[str]:
    code = UPDATE.format(root=str(ROOT), accident=accident)
    command = [sys.executable, "-c", code, str(index), str(photos), str(step)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def assert_is_as_it_was(index: ImageIndex, before: ImageIndex) -> None:
    assert len(index) == len(before)
    results = [[(hit.id, hit.cosine) for hit in some.search("red", k=100)] for some in (index, before)]
    assert results[0] == results[1]


@pytest.mark.parametrize("step", range(1, 10))
def test_killed_at_any_point_it_goes_on(index: ImageIndex, photos: Path, tmp_path: Path, step: int) -> None:
    """Steps: for each of four parts the vectors, then the database; in the end what readers see."""
    shutil.copytree(index.path, tmp_path / "before")
    before = ImageIndex.open(tmp_path / "before", ColourEncoder())
    paint_many(photos / "more", 28, seed=1)
    (photos / "000.png").unlink()
    killed = run_update(index.path, photos, step)
    assert killed.returncode == -9, killed.stderr
    assert_is_as_it_was(ImageIndex.open(index.path, ColourEncoder()), before)
    report = index.update()
    assert report.encoded == 28 - 7 * ((step - 1) // 2)
    assert (len(report.added), report.deleted) == (28, ("000.png",))
    assert_finds_what_is_there(index, photos)
    assert (index.path / "vectors-0.f16").stat().st_size == 8 * (31 + 28)


@pytest.mark.parametrize("step", [1, 2, 5, 9])
def test_a_full_disk_leaves_the_index_as_it_was(index: ImageIndex, photos: Path, tmp_path: Path, step: int) -> None:
    shutil.copytree(index.path, tmp_path / "before")
    paint_many(photos / "more", 28, seed=1)
    full = run_update(index.path, photos, step, FULL_DISK)
    assert full.returncode == 1
    assert "CheckpointError: " in full.stderr.splitlines()[-1], full.stderr
    assert_is_as_it_was(
        ImageIndex.open(index.path, ColourEncoder()), ImageIndex.open(tmp_path / "before", ColourEncoder())
    )
    index.update()
    assert_finds_what_is_there(index, photos)


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["opsin.files.os.replace", "opsin.search.store._remove"])
def test_a_generation_that_is_not_finished(
    index: ImageIndex, photos: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Before the database names its file, and before the file of the last one is removed."""
    (photos / "000.png").unlink()
    index.update()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, stop)
        index.compact()
    assert_finds_what_is_there(index, photos)
    assert_finds_what_is_there(ImageIndex.open(index.path, ColourEncoder()), photos)
    index.update()
    index.compact()
    assert [file.name for file in index.path.glob("vectors-*")] == ["vectors-1.f16"]
    assert_finds_what_is_there(index, photos)


def test_what_was_encoded_before_an_interruption_is_kept(index: ImageIndex, photos: Path) -> None:
    """However few images there are: with the default number of rows that go to disk together."""
    paint_many(photos / "more", 100, seed=1)
    paint(photos / "more" / "070.png", (1, 2, 3))

    class Interrupted(ColourEncoder):
        def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
            opened = [open_image(image) for image in images]
            if any(image.getpixel((0, 0)) == (1, 2, 3) for image in opened):
                raise KeyboardInterrupt
            return super().encode_image(opened, normalize=normalize)

    with pytest.raises(KeyboardInterrupt):
        ImageIndex.open(index.path, Interrupted()).update()
    assert len(index) == 31
    assert index.update().encoded == 36
    assert_finds_what_is_there(index, photos)


def test_what_was_encoded_before_a_cancellation_is_kept(index: ImageIndex, photos: Path) -> None:
    class Stopping(Progress):
        done = 0.0

        def report(self, title: str, done: float, total: float | None, unit: str = "", status: str = "") -> None:
            self.done = done

        def should_stop(self) -> bool:
            return self.done > 0

    paint_many(photos / "more", 100, seed=1)
    with pytest.raises(Cancelled, match="indexing was stopped after 32 of 100 images"):
        index.update(progress=Stopping())
    assert len(index.search("red", k=200)) == 31
    assert index.update().encoded == 68
    assert_finds_what_is_there(index, photos)


def test_a_search_that_a_compaction_runs_into(index: ImageIndex, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that it found have moved by the time that it looks for their images."""
    (photos / "000.png").unlink()
    index.update()
    before = [(hit.id, hit.cosine) for hit in index.search("red", k=5)]
    other = ImageIndex.open(index.path, ColourEncoder())
    search, compactions = ExactIndex.search, []

    def interrupted(self: ExactIndex, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = search(self, vector, k)
        if not compactions:
            compactions.append(other.compact())
        return found

    monkeypatch.setattr(ExactIndex, "search", interrupted)
    assert [(hit.id, hit.cosine) for hit in index.search("red", k=5)] == before
    assert len(compactions) == 1


def test_a_damaged_leftover_is_made_again(index: ImageIndex, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint_many(photos / "more", 28, seed=1)
    monkeypatch.setattr(store, "BLOCK_ROWS", 8)
    killed = run_update(index.path, photos, 9)
    assert killed.returncode == -9, killed.stderr
    file = index.path / "vectors-0.f16"
    file.write_bytes(file.read_bytes()[:-4])  # a half of the last row, in the only block
    assert index.update().encoded == 31 + 28
    assert_finds_what_is_there(index, photos)


def test_rows_that_no_one_has_noted_are_cut_off(index: ImageIndex, photos: Path) -> None:
    """A writer was killed while it wrote, in the middle of a row."""
    other = ImageIndex.open(index.path, ColourEncoder())
    assert len(other.search("red", k=99)) == 31
    with open(index.path / "vectors-0.f16", "ab") as file:
        file.write(b"half" * 100 + b"x")
    assert len(other.search("red", k=99)) == 31
    paint(photos / "new.png", (1, 2, 3))
    assert index.update().encoded == 1
    assert (index.path / "vectors-0.f16").stat().st_size == 8 * 32
    for searched in (index, other):
        assert_finds_what_is_there(searched, photos)
