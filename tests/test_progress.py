"""Progress on stderr, and stopping long calls."""

from __future__ import annotations

import gc
import io
import logging
import math
import random
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from opsin import ImageIndex, TextToImage, progress
from opsin.classification.config import ClassificationConfig, ViTConfig
from opsin.classification.train import train_classifier
from opsin.encoders import load
from opsin.encoders.base import BATCH_SIZE
from opsin.encoders.features import source_vectors
from opsin.errors import Cancelled, TrainingInterrupted
from opsin.probing.evaluation import Linear, evaluate_encoder
from opsin.progress import ConsoleProgress, Progress, format_duration, tracked, working
from opsin.runtime import cache_dir
from opsin.search.embedding import embed
from opsin.sources.opening import open_source
from opsin.training.config import TrainingConfig
from opsin.training.loggers import read_metrics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Recorder(Progress):
    """Notes all reports, and asks to stop after `most` of them."""

    def __init__(self, most: float = math.inf) -> None:
        self.reports: list[tuple[str, float, float | None]] = []
        self.most, self.finished = most, 0

    def report(self, title: str, done: float, total: float | None, unit: str = "", status: str = "") -> None:
        self.reports.append((title, done, total))

    def finish(self) -> None:
        self.finished += 1

    def should_stop(self) -> bool:
        return len(self.reports) > self.most


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """For counted work and for training alike, without a carriage return; quick work needs none."""
    stream = io.StringIO()
    console = ConsoleProgress(stream)
    assert list(tracked("abc", console, "encoding", 3)) == list("abc") and stream.getvalue() == ""
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0)
    assert list(tracked("abc", console, "encoding", 3)) == list("abc")
    with working(console, "cifar", None, unit="bytes", done=1000) as advance:
        advance(1234)
    console.report("training", 0.25, 1.0, status="step 5  loss 1.2346")
    console.note("val_loss 0.5")
    rows = stream.getvalue().split("\n")[:-1]
    shares = ("  0%", " 33%", " 67%", "100%")
    counted = [f"encoding {share}  {count} of 3 " for count, share in enumerate(shares)]
    assert [row.split("images")[0] for row in rows[:4]] == counted
    bytes_of = [f"cifar   0%  {count} bytes  R/s" for count in ("1,000", "2,234")]
    assert [re.sub("[0-9.,]+/s", "R/s", row) for row in rows[4:6]] == bytes_of
    assert rows[6:] == ["training  25%  step 5  loss 1.2346", "val_loss 0.5"]
    assert list(tracked("", console, "encoding", 0)) == [] and stream.getvalue().count("\n") == len(rows)


def test_lines_are_seconds_apart_and_the_last_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with working(ConsoleProgress(stream), "encoding", 20) as advance:
        for _ in range(20):
            now[0] += 1.1
            advance(1)
    assert [line.split("%")[0].split()[1] for line in stream.getvalue().splitlines()] == ["25", "50", "75", "100"]


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    console = ConsoleProgress(stream)
    console.report("training", 0.5, 1.0, status="step 10")
    console.note("val_loss 0.5")
    console.finish()
    text = stream.getvalue()
    assert "50%" in text and "step 10" in text and "val_loss 0.5" in text
    assert "\x1b[" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (-3, "0:00"), (59.6, "1:00"), (65, "1:05"), (7384, "2:03:04"), (math.inf, "?"), (math.nan, "?")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_work_can_be_stopped_before_and_between_and_not_after_its_end() -> None:
    for most in range(5):
        recorder, seen = Recorder(most), []
        try:
            for item in tracked("abc", recorder, "encoding", 3):
                seen.append(item)
            assert most >= 3
        except Cancelled as error:
            assert most < 3 and str(error) == f"encoding was stopped after {most} of 3 images"
        assert seen == list("abc"[:most])
        assert recorder.reports == [("encoding", count, 3) for count in range(min(most, 3) + 1)]
        assert recorder.finished == 1


# ------------------------------------------------------------------------------------------------ long calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, light and dark."""
    folder = tmp_path_factory.mktemp("images") / "classes"
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / name).mkdir(parents=True)
        for number in range(BATCH_SIZE + 10):
            pixels = generator.integers(low, low + 128, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))


def tiny_run(folder: Path) -> ClassificationConfig:
    training = TrainingConfig(max_steps=6, batch_size=8, validations=1, log_every=1, device="cpu", workers=0)
    model = ViTConfig(patch_size=8, embed_dim=8, num_layers=1, num_heads=1, dim_feedforward=8)
    return ClassificationConfig(data=str(folder), image_size=8, model=model, training=training)


def train(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    return train_classifier(tiny_run(folder), tmp_path / "run", progress=watcher)


def features(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    return source_vectors(open_source(folder), load("emoji-clip", "cpu"), progress=watcher)


def encode(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    return load("cifar10-simclr", "cpu").encode_image(sorted(folder.rglob("*.png")), progress=watcher)


def probe(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    return evaluate_encoder(load("cifar10-simclr", "cpu"), Linear(labels_fraction=1.0), str(folder), progress=watcher)


def index(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    path = tmp_path / "index"
    found = ImageIndex.open(path) if path.exists() else ImageIndex.create(path, load("cifar10-simclr", "cpu"))
    return found.update(str(folder), progress=watcher)


def embeddings(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    return embed(
        str(folder), tmp_path / "shards", lambda: load("cifar10-simclr", "cpu"), rows_per_shard=20, progress=watcher
    )


def generate(folder: Path, tmp_path: Path, watcher: Progress) -> Any:
    model = TextToImage.from_pretrained("emoji-diffusion", "cpu")
    return model.generate("red apple", steps=3, num_images=2, batch_size=1, progress=watcher)


CALLS: dict[str, tuple[Callable[..., Any], str]] = {
    "train": (train, "training"),
    "features": (features, "encoding"),
    "encode": (encode, "encoding"),
    "probe": (probe, "encoding"),
    "index": (index, "indexing"),
    "embed": (embeddings, "embedding"),
    "generate": (generate, "generating"),
}


def state_of_the_process() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "gc": gc.isenabled(),
        "warnings": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in sorted(logging.root.manager.loggerDict)},
        "matplotlib": dict(matplotlib.rcParams),
        "float32": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "running": {thread.name for thread in threading.enumerate()},
        "pixels": Image.MAX_IMAGE_PIXELS,
    }


@pytest.mark.parametrize("name", CALLS)
def test_long_calls_report_can_be_stopped_and_leave_the_process_as_it_was(
    name: str, folder: Path, tmp_path: Path
) -> None:
    call, title = CALLS[name]
    call(folder, tmp_path / "warm", Progress())  # what is imported and made once
    whole, before = Recorder(), state_of_the_process()
    call(folder, tmp_path / "whole", whole)
    assert {key: value for key, value in state_of_the_process().items() if value != before[key]} == {}
    if name in ("features", "probe"):  # the first call has filled the cache
        return
    own = [report for report in whole.reports if report[0] == title]
    assert own[-1][1] == own[-1][2] and len(own) > 2 and whole.finished >= 1
    with pytest.raises(Cancelled):
        call(folder, tmp_path / "part", Recorder(most=1))
    assert {key: value for key, value in state_of_the_process().items() if value != before[key]} == {}


def test_a_cancelled_encode_continues_where_it_was(folder: Path, tmp_path: Path) -> None:
    source, encoder = open_source(folder), load("cifar10-simclr", "cpu")
    count = len(source)
    with pytest.raises(Cancelled, match=f"encoding was stopped after {2 * BATCH_SIZE} of {count} images"):
        source_vectors(source, encoder, progress=Recorder(most=count + 3))  # all read, then two batches
    again = Recorder()
    _, vectors = source_vectors(source, encoder, progress=again)
    assert [done for title, done, _ in again.reports if title == "encoding"] == [2 * BATCH_SIZE, count]
    assert list((cache_dir() / "features").glob("*.part")) == []
    for path in (cache_dir() / "features").glob("*.npy"):
        path.unlink()
    _, at_once = source_vectors(source, encoder)
    assert torch.equal(vectors, at_once)


@pytest.mark.parametrize("kept_bytes", [0, 5, 130, 128 + 4 * 512 * (BATCH_SIZE + 3) + 7])
def test_what_a_killed_encode_left_is_used_up_to_its_last_whole_batch(
    kept_bytes: int, folder: Path, tmp_path: Path
) -> None:
    source, encoder = open_source(folder), load("cifar10-simclr", "cpu")
    _, expected = source_vectors(source, encoder)
    (whole,) = (cache_dir() / "features").glob("*.npy")
    content = whole.read_bytes()
    whole.with_suffix(".part").write_bytes(content[:kept_bytes])
    whole.unlink()
    again = Recorder()
    assert torch.equal(source_vectors(source, encoder, progress=again)[1], expected)
    first = next(done for title, done, _ in again.reports if title == "encoding")
    assert first == (BATCH_SIZE if kept_bytes > 1000 else 0) and whole.read_bytes() == content


def test_a_cancelled_index_update_loses_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled, match="indexing was stopped after"):
        index(folder, tmp_path, Recorder(most=1))
    again = Recorder()
    report = index(folder, tmp_path, again)
    count = len(open_source(folder))
    assert report.total == count and again.reports[-1] == ("indexing", count - BATCH_SIZE, count - BATCH_SIZE)


def test_a_training_that_was_asked_to_stop_is_continued_bit_by_bit(folder: Path, tmp_path: Path) -> None:
    """In any thread, where no signal could be caught."""
    caught: list[BaseException] = []

    def body() -> None:
        try:
            train(folder, tmp_path / "stopped", Recorder(most=0))
        except TrainingInterrupted as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert "stopped on request after step 2; the state is saved in" in str(caught[0])
    config = tiny_run(folder)
    train_classifier(config, tmp_path / "stopped" / "run", resume=True)
    train_classifier(config, tmp_path / "whole" / "run")
    losses = [
        [row["train_loss"] for row in read_metrics(tmp_path / name / "run" / "metrics.jsonl") if "train_loss" in row]
        for name in ("stopped", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
