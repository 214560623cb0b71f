"""CIFAR-10 in torchvision's batches and in parquet; the pickles of the batches must not run code."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin.data.pixels import load_pixels
from opsin.errors import DataError
from opsin.sources.cifar10 import BATCH_FILES, CLASS_NAMES
from opsin.sources.opening import open_source
from tests.conftest import MakeParquet, image_cell

PurePythonPickler: Any = pickle._Pickler


class Python2Pickler(PurePythonPickler):
    """Writes bytes as the `str` of Python 2, in which CIFAR-10 was published."""

    def save_bytes(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch: Any = {**PurePythonPickler.dispatch, bytes: save_bytes}


def python2_pickle(content: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_batches(
    directory: Path, dumps: Callable[[object], bytes] = python2_pickle, **changes: Any
) -> dict[str, np.ndarray]:
    """The six files of a CIFAR-10 with three rows in each; returns the pixels of each."""
    rows = 3
    folder = directory / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = {}
    for number, file in enumerate(BATCH_FILES):
        pixels[file] = generator.integers(0, 256, (rows, 3072), dtype=np.uint8)
        labels = [(number + row) % 10 for row in range(rows)]
        content: dict[Any, Any] = {b"data": pixels[file], b"labels": labels, b"filenames": [b"a.png"] * rows, **changes}
        (folder / file).write_bytes(dumps(content))
    return pixels


def old_numpy_pickle(content: object) -> bytes:
    """The module had another name before NumPy 2."""
    return python2_pickle(content).replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize(
    "dumps",
    [
        python2_pickle,
        old_numpy_pickle,
        partial(pickle.dumps, protocol=2),
        partial(pickle.dumps, protocol=4),
    ],
    ids=["as published", "as published, old numpy", "protocol 2", "protocol 4"],
)
def test_batches(tmp_path: Path, dumps: Callable[[object], bytes]) -> None:
    pixels = write_batches(tmp_path, dumps)
    source = open_source(f"cifar10:{tmp_path}")
    assert source.class_names == CLASS_NAMES
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert len(source.split("train")) == 15
    test = source.split("test")
    assert test.ids == ["test_batch/00000", "test_batch/00001", "test_batch/00002"]
    assert test.labels.tolist() == [5, 6, 7]  # type: ignore[union-attr]
    _, loaded = load_pixels(pickle.loads(pickle.dumps(test)), 32)  # as a worker process may get it
    assert (loaded == pixels["test_batch"].reshape(-1, 3, 32, 32)).all()


def test_agrees_with_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    write_batches(tmp_path)
    meta = tmp_path / "cifar-10-batches-py" / "batches.meta"
    meta.write_bytes(python2_pickle({b"label_names": [name.encode() for name in CLASS_NAMES]}))
    # Files of this test cannot have the checksums of the real ones.
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    peer = CIFAR10(tmp_path, train=True)
    ours = open_source(f"cifar10:{tmp_path}").split("train")
    assert tuple(peer.classes) == ours.class_names
    assert peer.targets == ours.labels.tolist()  # type: ignore[union-attr]
    assert all((np.asarray(peer[row][0]) == np.asarray(ours.load(row))).all() for row in range(len(ours)))


def test_folder_of_the_batches_itself(tmp_path: Path) -> None:
    write_batches(tmp_path)
    assert len(open_source(f"cifar10:{tmp_path / 'cifar-10-batches-py'}")) == 18


def test_prepared_data_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="run `opsin data prepare cifar10`"):
        open_source("cifar10")
    write_batches(tmp_path / "cifar10")
    assert open_source("cifar10").name == "cifar10"
    assert len(open_source("cifar10:")) == 18


def test_parquet(make_parquet: MakeParquet, tmp_path: Path) -> None:
    for split, label in (("train", 3), ("test", 9)):
        make_parquet(f"c/{split}.parquet", {"image": [image_cell()], "label": [label]})
    source = open_source(f"cifar10:{tmp_path / 'c'}")
    assert source.class_names == CLASS_NAMES
    assert source.split("test").labels.tolist() == [9]  # type: ignore[union-attr]


def test_directory_without_cifar10(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="there is no CIFAR-10 in"):
            open_source(f"cifar10:{directory}")


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, open, np.load, np.fromfile, Image.open, getattr])
def test_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, function: Any) -> None:
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function is os.system else str(trace)
    arguments = (argument, "w") if function is open else (argument,)
    write_batches(tmp_path, extra=Evil(function, *arguments))
    with pytest.raises(DataError, match=r"data_batch_1 is damaged or no batch of CIFAR-10: it holds .*; only arrays"):
        open_source(f"cifar10:{tmp_path}")
    assert not trace.exists()


class Crafted:
    """What is pickled as a call with a state."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def test_numbers_that_pass_for_pointers_are_followed_nowhere(tmp_path: Path) -> None:
    """An array of objects whose type is said to hold none: numpy itself would end the process over its content."""
    kind = Crafted(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))
    reconstruct = np.zeros(0).__reduce__()[0]
    hostile = Crafted(reconstruct, (np.ndarray, (0,), b"b"), (1, (8,), kind, False, b"\x01" * 64))
    write_batches(tmp_path)
    content = pickle.dumps({b"data": hostile, b"labels": [0]}, protocol=2)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_1 is not a batch of CIFAR-10"):
        open_source(f"cifar10:{tmp_path}")


def doubling(levels: int) -> bytes:
    """A list that contains another one twice, and that again another one: 2^levels items to whoever walks it."""
    return b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(levels)) + b"."


def doubling_key(levels: int) -> bytes:
    """The same of tuples, as the key of a dictionary, whose hash takes 2^levels steps."""
    tuples = b"".join(b"q%ch%c\x86" % (n, n) for n in range(levels))
    return b"\x80\x02})" + tuples + b"K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        doubling(60),
        doubling_key(60),
        b"\x80\x02]r\x00\x00\x00\x10.",  # the memo index 2^28, for which Python's own reader takes 4 GB
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",  # a string that claims a terabyte
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x02]q\x00h\x00a.",  # a list in itself
        b"\x80\x02" + b"N0" * 1_500_000 + b"N.",
    ],
    ids=["lists", "keys", "memo", "length", "depth", "cycle", "opcodes"],
)
def test_pickles_that_ask_for_more_than_they_hold(tmp_path: Path, content: bytes) -> None:
    """Memory and time of this process are limited, so that a failure fails and does not hang."""
    write_batches(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    code = (
        "import resource, sys; from opsin.sources.opening import open_source; from opsin.errors import DataError\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 20,) * 2)\n"
        "try: open_source(sys.argv[1])\n"
        "except DataError as error: print(error)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used.ru_maxrss\n"
        "assert grown < 300_000, grown  # kB\n"
    )
    command = [sys.executable, "-c", code, f"cifar10:{tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"data_batch_1 is (damaged or no|not a) batch of CIFAR-10", result.stdout)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 1]}),
        pickle.dumps({b"data": np.full((2, 3072), 0.5), b"labels": [0, 1]}),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": "ab"}),
    ],
)
def test_damaged_batch_is_named(tmp_path: Path, content: bytes) -> None:
    write_batches(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_3 is (damaged or no|not a) batch of CIFAR-10"):
        open_source(f"cifar10:{tmp_path}")


def test_missing_batch_is_named(tmp_path: Path) -> None:
    write_batches(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch is missing; CIFAR-10 is incomplete"):
        open_source(f"cifar10:{tmp_path}")
