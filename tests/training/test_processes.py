"""Several processes do what one does with the joint batch, and stop together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opsin.checkpoint import load_training_state
from opsin.training.loggers import read_metrics
from tests.training.launch import run_toy, run_toy_on

ROOT = Path(__file__).parents[2]
EVEN = {"max_steps": 10, "batch_size": 8, "task": {"dropout": 0.0, "noise": 0.0}}


def train_rows(run: Path) -> list[dict]:
    return [row for row in read_metrics(run / "metrics.jsonl") if "train_loss" in row]


def assert_same_training(run: Path, expected: Path) -> None:
    """Losses, gradient norms, validation and final weights agree to the tolerance of float32 sums in another order."""
    left, right = read_metrics(run / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl")
    assert [row["step"] for row in left] == [row["step"] for row in right]
    for row, other in zip(left, right, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() & {"train_loss", "train_grad_norm", "val_loss", "learning_rate", "epoch"}:
            assert row[name] == pytest.approx(other[name], rel=2e-5), (name, row["step"])
    for part in ("model", "ema"):
        weights, others = (load_training_state(path / "checkpoints" / "last.pt")[part] for path in (run, expected))
        for name, tensor in others.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5, msg=f"{part} {name}")


@pytest.mark.parametrize(
    ("count", "options"),
    [
        pytest.param(2, {}, id="even"),
        pytest.param(2, {"samples": 29, "accumulate": 2}, id="last batch of 5 in parts of 2, 1, 1, 1"),
        pytest.param(2, {"samples": 25}, id="last batch of 1, so that one process has none"),
        pytest.param(3, {"samples": 7, "batch_size": 9}, id="fewer samples than the batch, 3 processes"),
    ],
)
def test_equal_to_one_process(count: int, options: dict, tmp_path: Path) -> None:
    alone = {**EVEN, **options, "accumulate": 1}
    assert run_toy(tmp_path / "one", **alone).exit_code == 0
    finished = run_toy_on(count, tmp_path / "many", **{**EVEN, **options})
    assert [process.exit_code for process in finished] == [0] * count, finished
    assert_same_training(tmp_path / "many", tmp_path / "one")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("precision", "bits"), [("32", 32), ("bf16", 16)])
def test_the_network_runs_in_the_precision_and_the_batch_arrives_as_it_was(
    count: int, precision: str, bits: int, tmp_path: Path
) -> None:
    for finished in run_toy_on(count, tmp_path / "run", precision=precision, max_steps=2, validations=1):
        assert finished.exit_code == 0, finished.stderr
        assert finished.stderr == ""
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train_loss" in row]
    assert [(row["train_output_bits"], row["train_batch_bits"]) for row in rows] == [(bits, 32)] * 2


def test_accumulating_equals_the_whole_batch(tmp_path: Path) -> None:
    """Also in the last batch of an epoch, here of 5 samples in 4 parts of which one is larger."""
    assert run_toy(tmp_path / "whole", **EVEN, samples=29).exit_code == 0
    assert run_toy(tmp_path / "parts", **EVEN, samples=29, accumulate=4).exit_code == 0
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


def test_torchrun(tmp_path: Path) -> None:
    """The real launcher; and only the first process writes: one lock, one log, no row twice."""
    options = '{"max_steps": 6, "task": {"dropout": 0.0, "noise": 0.0}}'
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    finished = subprocess.run(
        [*command, "-m", "tests.training.toy", str(tmp_path / "two"), options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    assert run_toy(tmp_path / "one", max_steps=6, task={"dropout": 0.0, "noise": 0.0}).exit_code == 0
    assert_same_training(tmp_path / "two", tmp_path / "one")
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert [row["step"] for row in train_rows(tmp_path / "two")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("rank", [0, 1])
def test_all_stop_when_one_has_a_loss_that_is_not_finite(rank: int, tmp_path: Path) -> None:
    finished = run_toy_on(2, tmp_path / "run", accident={"step": 4, "rank": rank, "kind": "nan"})
    for process in finished:
        assert process.exit_code == 1
        assert "TrainingError: the loss became nan at step 4 (epoch 1, batch 4)" in process.stderr
    assert load_training_state(tmp_path / "run" / "checkpoints" / "last.pt")["counters"]["step"] == 3


@pytest.mark.parametrize("rank", [0, 1])
def test_all_stop_when_one_gets_a_signal_and_resume_together(rank: int, tmp_path: Path) -> None:
    options = {"max_steps": 12, "checkpoint_minutes": 1000.0}
    accident = {"step": 4, "rank": rank, "kind": "SIGTERM"}
    stopped = run_toy_on(2, tmp_path / "run", **options, accident=accident)
    assert [process.exit_code for process in stopped] == [128 + signal.SIGTERM] * 2, stopped
    assert [process.exit_code for process in run_toy_on(2, tmp_path / "run", **options, resume=True)] == [0, 0]
    assert [process.exit_code for process in run_toy_on(2, tmp_path / "straight", **options)] == [0, 0]
    resumed, straight = (
        load_training_state(tmp_path / name / "checkpoints" / "last.pt") for name in ("run", "straight")
    )
    for part in ("model", "ema"):
        for name, tensor in straight[part].items():
            assert torch.equal(resumed[part][name], tensor), name


@pytest.mark.parametrize("log_every", [1, 1000])
def test_all_stop_when_the_first_cannot_write(log_every: int, tmp_path: Path) -> None:
    """The disk is full for the log, where the others do not wait, or for the state, where they do."""
    accident = {"step": 3, "kind": "full_disk"}
    full = run_toy_on(2, tmp_path / "run", log_every=log_every, accident=accident)
    assert [process.exit_code for process in full] == [1, 1], full
    assert len(full[0].stderr.splitlines()) == len(full[1].stderr.splitlines()) == 1
    assert "CheckpointError" in full[0].stderr and "File too large" in full[0].stderr
    assert "process of the run" in full[1].stderr and "its own message" in full[1].stderr
    assert load_training_state(tmp_path / "run" / "checkpoints" / "last.pt")["counters"]["step"] == 2


def test_all_stop_when_the_first_cannot_begin(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    again = run_toy_on(2, tmp_path / "run")
    assert [process.exit_code for process in again] == [1, 1], again
    assert "already holds a run" in again[0].stderr


def test_a_state_that_only_the_first_finds_is_not_resumed(tmp_path: Path) -> None:
    assert [process.exit_code for process in run_toy_on(2, tmp_path / "run", max_steps=2)] == [0, 0]
    again = run_toy_on(2, tmp_path / "run", others=tmp_path / "elsewhere", max_steps=4, resume=True)
    for process in again:
        assert process.exit_code == 1
        assert "TrainingError: the processes of the run do not find the same training state" in process.stderr


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    finished = run_toy_on(2, tmp_path / "run", batch_size=9)
    assert [process.exit_code for process in finished] == [1, 1]
    assert "batch_size (9) must be divisible by processes times accumulate (2)" in finished[0].stderr
    assert not (tmp_path / "run" / "config.json").exists()
