"""Train, evaluate, classify from the command line; and everything that a person can get wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from opsin.checkpoint import load_training_state
from tests.classification.conftest import make_colour_folder

from .conftest import Opsin, assert_one_clear_line

TINY = [
    "--image-size",
    "16",
    "--patch-size",
    "4",
    "--embed-dim",
    "32",
    "--num-layers",
    "1",
    "--num-heads",
    "2",
    "--dim-feedforward",
    "32",
]
SHORT = [*TINY, "--batch-size", "12", "--learning-rate", "0.003", "--validations", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colour_folder(tmp_path_factory.mktemp("data") / "colours", per_class=8)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from opsin.cli.main import main

    directory = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(["train", "vit", "--data", str(folder), "--out", str(directory), "--max-steps", "40", "--quiet", *SHORT])
        == 0
    )
    return directory


def test_train_evaluate_classify(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = opsin("train", "vit", "--data", folder, "--out", out, "--epochs", 20, "--json", *SHORT)
    assert trained.returncode == 0, trained.stderr
    report = json.loads(trained.stdout)
    assert report["metrics"]["val_accuracy"] > 0.5

    evaluated = opsin("evaluate", out, "--json", "--picture", tmp_path / "confusion.png")
    assert evaluated.returncode == 0, evaluated.stderr
    document = json.loads(evaluated.stdout)
    assert document["accuracy"] == pytest.approx(report["metrics"]["val_accuracy"])
    assert "split 'val'" in document["protocol"]
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.size[0] > 300

    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = (folder / "red" / "00.png", tmp_path / "broken.jpg", folder / "blue")
    classified = opsin("classify", *images, "--model", out, "--json", "--attention", tmp_path / "looked")
    assert classified.returncode == 0, classified.stderr
    document = json.loads(classified.stdout)
    assert len(document["images"]) == 9
    assert [row["id"] for row in document["skipped"]] == [str(tmp_path / "broken.jpg")]
    assert len(list((tmp_path / "looked").glob("*.png"))) == 9


def test_tables_for_people(opsin: Opsin, run: Path, folder: Path, tmp_path: Path) -> None:
    evaluated = opsin("evaluate", run)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "accuracy" in evaluated.stdout and "confusion" in evaluated.stdout
    assert evaluated.stderr == f"next: opsin classify IMAGES --model {run}\n"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = (folder / "red" / "00.png", tmp_path / "broken.jpg")
    classified = opsin("classify", *images, "--model", run, "-k", 1, "--precision", "32", "--batch-size", 1, "--quiet")
    assert classified.returncode == 0, classified.stderr
    assert "red" in classified.stdout
    assert f"left out  {tmp_path / 'broken.jpg'} is not an image" in classified.stdout
    assert classified.stderr == ""


def test_a_picture_that_cannot_be_written_does_not_cost_the_result(opsin: Opsin, run: Path, folder: Path) -> None:
    evaluated = opsin("evaluate", run, "--json", "--picture", run / "config.json" / "x.png")
    assert_one_clear_line(evaluated, "could not be written")
    assert json.loads(evaluated.stdout)["count"] > 0
    classified = opsin("classify", folder / "red" / "00.png", "--model", run, "--attention", run / "config.json")
    assert_one_clear_line(classified, "could not be written")
    assert "red" in classified.stdout


def test_export_of_the_best_and_the_last_weights(opsin: Opsin, run: Path, folder: Path, tmp_path: Path) -> None:
    """The model of the run has the best weights; whichever are exported come with their own scores and card."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = [row["val_loss"] for row in rows if "val_loss" in row][-1]
    (run / "model" / "model.safetensors").rename(tmp_path / "kept")  # as of a run that has not ended
    for which in ("best", "last"):
        exported = opsin("export", run, "--weights", which, "--out", tmp_path / which)
        assert exported.returncode == 0, exported.stderr
        assert json.loads((tmp_path / which / "config.json").read_text())["metrics"]["val_loss"] == loss
        assert f"| val_loss | {loss:.4f} |" in (tmp_path / which / "README.md").read_text()
        classified = opsin("classify", folder / "red" / "00.png", "--model", tmp_path / which, "--json")
        assert classified.returncode == 0, classified.stderr
    (tmp_path / "kept").rename(run / "model" / "model.safetensors")
    refused = opsin("export", tmp_path / "best", "--weights", "last", "--out", tmp_path / "again")
    assert_one_clear_line(refused, "is not a run directory")


def test_help_names_options_once(opsin: Opsin) -> None:
    text = opsin("train", "vit", "--help-all").stdout
    for option in ("--data", "--out", "--recipe", "--max-minutes", "--resume", "--device", "--precision", "--seed"):
        assert option in text
    assert "overfit-batch" in text


def test_wrong_usage_exits_with_2(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    assert opsin("train", "vit", "--data", folder).returncode == 2
    assert opsin("train", "vit", "--data", folder, "--out", tmp_path / "x", "--embed-dims", 3).returncode == 2
    assert_one_clear_line(opsin("train", "vti", "--out", "x"), "did you mean 'vit'", code=2)
    assert_one_clear_line(
        opsin("train", "vit", "--out", tmp_path / "x", "--recipe", "cifar"), "did you mean 'cifar10'", code=2
    )
    assert_one_clear_line(opsin("classify", "a.png", "--model", "m", "-k", 0), "--top-k", code=2)
    assert_one_clear_line(opsin("classify", "a.png", "--model", "m", "--batch-size", 0), "--batch-size", code=2)
    assert_one_clear_line(opsin("evaluate", "emoji-captioner", "--picture", "c.jpg"), "ends in .png", code=2)
    assert not (tmp_path / "x").exists()


def test_unusable_data(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    def train(data: Path | str) -> object:
        return opsin("train", "vit", "--data", data, "--out", tmp_path / "out", "--max-steps", 2, *SHORT)

    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "cats").mkdir(parents=True)
    shutil.copytree(folder / "red", tmp_path / "single" / "red")
    assert_one_clear_line(train(str(folder) + "x"), "no data source", "did you mean", "colours")
    assert_one_clear_line(train(tmp_path / "empty"), "no image was found", "CLASS/*")
    assert_one_clear_line(train(tmp_path / "hollow"), "no image was found")
    assert_one_clear_line(train(tmp_path / "single"), "one class only (red)")
    assert_one_clear_line(train(folder / "red" / "00.png"), "no table, parquet file or archive")
    assert not (tmp_path / "out").exists()


def test_unusable_settings(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    def train(*options: object) -> object:
        return opsin("train", "vit", "--data", folder, "--out", tmp_path / "out", *options)

    assert_one_clear_line(train("--image-size", 30, "--patch-size", 4), "image_size (30)", "patch_size (4)", code=2)
    assert_one_clear_line(train("--epochs", 0), "epochs must be at least 1", code=2)
    assert_one_clear_line(train("--max-steps", 1, "--device", "warp"), "unknown device 'warp'")
    (tmp_path / "file").write_text("in the way")
    blocked = opsin("train", "vit", "--data", folder, "--out", tmp_path / "file", "--max-steps", 1, *SHORT)
    assert_one_clear_line(blocked, "cannot be used as the run directory")


def test_a_run_is_not_overwritten_and_can_be_continued(opsin: Opsin, folder: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    again = opsin("train", "vit", "--data", folder, "--out", copy, "--max-steps", 2, *SHORT)
    assert_one_clear_line(again, "already holds a run", "--resume")
    longer = opsin("train", "vit", "--out", copy, "--resume", "--max-steps", 45, "--json")
    assert longer.returncode == 0, longer.stderr
    assert json.loads(longer.stdout)["steps"] == 45
    changed = opsin("train", "vit", "--out", copy, "--resume", "--embed-dim", 64)
    assert_one_clear_line(changed, "another model.embed_dim", code=2)
    assert_one_clear_line(opsin("train", "vit", "--out", tmp_path / "none", "--resume"), "holds no run to continue")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_can_be_continued(
    opsin: Opsin, folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    command = ["train", "vit", "--data", folder, "--out", out, "--max-steps", 100_000, "--log-every", 1, *SHORT]
    process = subprocess.Popen(
        [sys.executable, "-m", "opsin", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while not (out / "metrics.jsonl").exists() or "train_loss" not in (out / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == code, stderr
    assert f"stopped by {number.name} after step" in stderr
    done = load_training_state(out / "checkpoints" / "last.pt")["counters"]["step"]
    continued = opsin("train", "vit", "--out", out, "--resume", "--max-steps", done + 2, "--json", "--quiet")
    assert continued.returncode == 0, continued.stderr
    assert json.loads(continued.stdout)["steps"] == done + 2


def test_two_processes_report_once(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "opsin"]
    options = ["train", "vit", "--data", folder, "--out", tmp_path / "run", "--max-steps", 4, "--json", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *map(str, [*options, *SHORT])], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 4


def test_a_config_with_an_unknown_key_names_the_nearest(opsin: Opsin, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["training"]["lerning_rate"] = config["training"].pop("learning_rate")
    (copy / "config.json").write_text(json.dumps(config))
    result = opsin("train", "vit", "--out", copy, "--resume")
    assert_one_clear_line(result, "training.lerning_rate", "did you mean 'training.learning_rate'")


def test_unusable_models(opsin: Opsin, folder: Path, run: Path, tmp_path: Path) -> None:
    image = folder / "red" / "00.png"

    def classify(model: Path) -> object:
        return opsin("classify", image, "--model", model)

    def copied(name: str) -> Path:
        return Path(shutil.copytree(run / "model", tmp_path / name))

    truncated = copied("truncated")
    content = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert_one_clear_line(classify(truncated), "truncated")

    newer = copied("newer")
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    assert_one_clear_line(classify(newer), "format version 99", "Update opsin")

    foreign = copied("foreign")
    (foreign / "config.json").write_text(json.dumps({**config, "kind": "segmenter"}))
    assert_one_clear_line(classify(foreign), "kind 'segmenter'")
    assert_one_clear_line(opsin("evaluate", foreign), "segmenter")

    assert_one_clear_line(classify(tmp_path / "nowhere"), "there is no model")
    assert_one_clear_line(opsin("classify", tmp_path / "nothing.png", "--model", run), "there is no file")


def test_offline_says_what_to_do(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    prepared = opsin("data", "prepare", "cifar10", "--offline", OPSIN_CACHE=cache)
    assert_one_clear_line(prepared, "offline", "cifar-10-python.tar.gz", cache)
    trained = opsin("train", "vit", "--data", "cifar10", "--out", tmp_path / "run", OPSIN_CACHE=cache)
    assert_one_clear_line(trained, "opsin data prepare cifar10")
    hub = opsin("classify", folder / "red" / "00.png", "--model", "hf-hub:nobody/nothing", "--offline", HF_HOME=cache)
    assert_one_clear_line(hub, "nobody/nothing", "not in the local cache")
