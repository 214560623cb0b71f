"""Train an encoder without labels, look into it and pass it on from the command line, as a person would."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from opsin.checkpoint import load_pretrained
from opsin.cli.main import main
from tests.simclr.conftest import make_pattern_folder

from .conftest import Opsin, assert_one_clear_line

TINY = [
    *("--image-size", "16", "--encoder", "vit", "--patch-size", "4", "--embed-dim", "16", "--num-layers", "1"),
    *("--num-heads", "2", "--view-size", "16", "--projection-dim", "8", "--projection-hidden", "16"),
    *("--batch-size", "8", "--validations", "1", "--device", "cpu", "--precision", "32", "--val-fraction", "0.25"),
]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Opsin:
    """The command in this process, where its imports are already paid for."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [str(argument) for argument in arguments]
        code = main(argv)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(argv, code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pattern_folder(tmp_path_factory.mktemp("data") / "patterns", 8)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(["train", "simclr", "--data", str(folder), "--out", str(out), "--max-steps", "6", "--quiet", *TINY]) == 0
    )
    return out


def test_train_says_what_it_found_and_what_comes_next(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = opsin("train", "simclr", "--data", folder, "--out", out, "--epochs", 2, *TINY)
    assert trained.returncode == 0, trained.stderr
    assert "val_knn_accuracy" in trained.stdout and "left out  fine/broken.png" in trained.stdout
    # Two epochs on a few images: no better than what the network gave before.
    assert "warning: accuracy" in trained.stderr and "the same network untrained" in trained.stderr
    assert "accuracy of always guessing the largest class" in trained.stdout and "next:" not in trained.stderr
    again = opsin("train", "simclr", "--out", out, "--resume", "--epochs", 3, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["steps"] == 9
    changed = opsin("train", "simclr", "--out", out, "--resume", "--temperature", 0.1)
    assert_one_clear_line(changed, "another temperature", code=2)


def test_after_images_without_labels_comes_what_takes_none(command: Opsin, folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(folder / "coarse", flat)
    out = tmp_path / "run"
    trained = command("train", "simclr", "--data", flat, "--out", out, "--max-steps", 1, *TINY)
    assert f"next: opsin index {flat} --out {out}.index --model {out}" in trained.stderr
    assert command(*shlex.split(trained.stderr.split("next: opsin ")[1].splitlines()[0])).returncode == 0


def test_a_killed_run_ends_as_if_nothing_had_happened(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    arguments = ["--data", folder, "--max-steps", 60, "--checkpoint-minutes", 0, "--quiet", *TINY]
    straight = opsin("train", "simclr", "--out", tmp_path / "straight", *arguments)
    assert straight.returncode == 0, straight.stderr
    command = [sys.executable, "-m", "opsin", "train", "simclr", "--out", tmp_path / "killed", *arguments]
    process = subprocess.Popen([str(word) for word in command], env=os.environ)
    state = tmp_path / "killed" / "checkpoints" / "last.pt"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    resumed = opsin("train", "simclr", "--out", tmp_path / "killed", "--resume", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    weights, others = (load_pretrained(tmp_path / name, kind="simclr")[1] for name in ("killed", "straight"))
    for name, tensor in others.items():
        assert torch.equal(weights[name], tensor), name


def test_help_lists_recipes_and_options(opsin: Opsin) -> None:
    text = opsin("train", "simclr", "--help-all").stdout
    for option in ("--data", "--out", "--encoder", "--temperature", "--view-size", "--max-minutes", "--compile"):
        assert option in text
    for recipe in ("cifar10-cpu-30min", "cifar10-cpu-2h", "cifar10-gpu", "emoji-simclr"):
        assert recipe in text


def test_profile_counts_encoder_and_projection(command: Opsin, run: Path) -> None:
    document = json.loads(command("profile", run, "--json").stdout)
    assert document["input"] == [1, 3, 16, 16]
    parts = {part["name"]: part for part in document["parts"]}
    assert parts.keys() == {"encoder", "projection"}
    assert sum(part["parameters"] for part in parts.values()) == document["parameters"]
    assert parts["encoder"]["macs"] > parts["projection"]["macs"] == 16 * 16 + 16 * 8


def test_export_with_and_without_the_projection(command: Opsin, run: Path, folder: Path, tmp_path: Path) -> None:
    whole = command("export", run, "--out", tmp_path / "whole", "--json")
    small = command("export", run, "--out", tmp_path / "small", "--encoder-only", "--half", "--json")
    assert whole.returncode == small.returncode == 0, small.stderr
    assert json.loads(small.stdout)["bytes"] < json.loads(whole.stdout)["bytes"]
    _, tensors = load_pretrained(tmp_path / "small", kind="simclr")
    assert all(name.startswith("encoder.") for name in tensors)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    parts = json.loads(command("profile", tmp_path / "small", "--json").stdout)["parts"]
    assert {part["name"]: part["parameters"] for part in parts}["projection"] == 0
    embedded = command("embed", folder, "--out", tmp_path / "vectors", "--model", tmp_path / "small", "--device", "cpu")
    assert embedded.returncode == 0, embedded.stderr


def test_wrong_usage(command: Opsin, run: Path, folder: Path, tmp_path: Path) -> None:
    train = ("train", "simclr", "--data", folder, "--out", tmp_path / "x", "--max-steps", 1)
    assert_one_clear_line(command(*train, "--batch-size", 1), "batch_size must be at least 2", code=2)
    assert_one_clear_line(command(*train, "--temperature", 0), "temperature must be above 0", code=2)
    assert_one_clear_line(command(*train, "--recipe", "cifar10-cpu-3h"), "did you mean 'cifar10-cpu-2h'", code=2)
    assert_one_clear_line(command("classify", folder / "fine" / "00.png", "--model", run), "kind 'simclr'")
    assert_one_clear_line(
        command("export", "emoji-clip", "--out", tmp_path / "x", "--encoder-only"), "has no projection to leave out"
    )
    assert not (tmp_path / "x").exists()
