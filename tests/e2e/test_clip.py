"""Train a dual encoder, judge it, label images with it and search with it from the command line, as a person would."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from opsin.cli.main import main
from tests.clip.conftest import COLOURS, make_captioned_folder

from .conftest import Opsin, assert_one_clear_line

Command = Callable[..., subprocess.CompletedProcess[str]]

TOWERS = [
    f"--{tower}.{name}" for tower in ("image", "text") for name in ("embed-dim=16", "num-heads=2", "num-layers=1")
]
TINY = [
    *("--image-size", "16", "--patch-size", "4", "--embed-dim", "16", "--vocab-size", "300", "--max-length", "16"),
    *("--style", "0", "--batch-size", "16", "--learning-rate", "0.005", "--validations", "1", "--device", "cpu"),
    *("--image.dropout", "0", "--text.dropout", "0"),
    *TOWERS,
]
LABELS = ",".join(f"all in {name}" for name in COLOURS)
PER_COLOUR = 8


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, where its imports are already paid for."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [str(argument) for argument in arguments]
        code = main(argv)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(argv, code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned_folder(tmp_path_factory.mktemp("data") / "colours", PER_COLOUR)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "clip", "--data", folder, "--out", out, "--max-steps", 100, "--test-fraction", 0.2]
    assert main([*map(str, arguments), "--quiet", *TINY]) == 0
    return out


def colour_of(path: str) -> str:
    return Path(path).stem.rstrip("0123456789")


def test_from_a_folder_to_labels_and_hits(opsin: Opsin, folder: Path, tmp_path: Path) -> None:
    """Every step in a process of its own: what one leaves on disk is all that the next one has."""
    out, index = tmp_path / "run", tmp_path / "index"
    trained = opsin("train", "clip", "--data", folder, "--out", out, "--max-steps", 100, "--val-fraction", 0.2, *TINY)
    assert trained.returncode == 0, trained.stderr
    assert "val_recall_at_10" in trained.stdout and "left out  broken.png" in trained.stdout
    assert f'opsin classify IMAGES --labels "one thing,another thing" --model {out}' in trained.stderr

    labelled = opsin("classify", folder, "--model", out, "--labels", LABELS, "--template", "{}", "--json")
    assert labelled.returncode == 0, labelled.stderr
    rows = [row for row in json.loads(labelled.stdout)["images"] if colour_of(row["image"]) in COLOURS]
    assert len(rows) == PER_COLOUR * len(COLOURS)
    right = sum(row["labels"][0] == f"all in {colour_of(row['image'])}" for row in rows)
    assert right > 2 * len(rows) / len(COLOURS)  # so short a training learns one colour more or less by the processor

    indexed = opsin("index", folder, "--out", index, "--model", out, "--json")
    assert indexed.returncode == 0, indexed.stderr
    report = json.loads(indexed.stdout)
    assert report["images"] == PER_COLOUR * len(COLOURS) + 2  # those without caption are images, too
    assert ["broken.png" in row["reason"] for row in report["skipped"]] == [True]
    count = PER_COLOUR + 2
    found = opsin("search", index, "picture in red", "-k", count, "--json", "--html", tmp_path / "found.html")
    assert found.returncode == 0, found.stderr
    hits = json.loads(found.stdout)["hits"]
    assert len(hits) == count and sum(colour_of(hit["id"]) == "red" for hit in hits) > PER_COLOUR / 2
    assert (tmp_path / "found.html").read_text(encoding="utf-8").count("<figure>") == count


def test_evaluate_says_recall_chance_and_protocol(command: Command, run: Path, folder: Path) -> None:
    metrics = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["metrics"]
    result = command("evaluate", run, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["data"], document["split"]) == (str(folder), "test")
    assert document["styles"].keys() == {"all"}
    directions = document["styles"]["all"]
    assert directions.keys() == {"text_to_image", "image_to_text"}
    for k in (1, 5, 10):
        mean = sum(scores[f"recall_at_{k}"] for scores in directions.values()) / 2
        assert mean == pytest.approx(metrics[f"test_recall_at_{k}"])
    count = directions["image_to_text"]["queries"]
    assert count == directions["text_to_image"]["candidates"]
    assert f"{count} images of {str(folder)!r}, split 'test'" in document["protocol"]

    everything = command("evaluate", run, "--data", folder, "--split", "all")
    assert everything.returncode == 0, everything.stderr
    for text in ("text to image", "image to text", "recall@1", "@10", "chance@10", "median rank"):
        assert text in everything.stdout
    assert f"{PER_COLOUR * len(COLOURS) + 1} images of" in everything.stdout  # `white` has captions as well
    assert "left out  broken.png" in everything.stdout and "left out  blank.png" in everything.stdout
    assert everything.stderr == f'next: opsin classify IMAGES --labels "one thing,another thing" --model {run}\n'


def test_evaluate_judges_each_drawing_style_apart(command: Command, run: Path) -> None:
    document = json.loads(command("evaluate", run, "--data", "emoji", "--split", "val", "--json").stdout)
    assert document["styles"].keys() == {"twemoji", "openmoji"}
    assert "each drawing style apart" in document["protocol"]
    for directions in document["styles"].values():
        scores = directions["text_to_image"]
        assert scores["chance_at_1"] < scores["chance_at_5"] < scores["chance_at_10"] < 0.2


def test_labels_are_judged_on_class_folders(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    for name in COLOURS:
        (tmp_path / "photos" / f"{name}_picture").mkdir(parents=True)
        for place in range(3):
            shutil.copy(folder / f"{name}{place}.png", tmp_path / "photos" / f"{name}_picture")
    judged = command("evaluate", run, "--zero-shot", "--data", tmp_path / "photos", "--template", "{}", "--json")
    assert judged.returncode == 0, judged.stderr
    document = json.loads(judged.stdout)
    assert document["class_names"] == sorted(f"{name}_picture" for name in COLOURS)
    labels = ",".join(f"{name} picture" for name in COLOURS)
    answers = command("classify", tmp_path / "photos", "--model", run, "--labels", labels, "--template", "{}", "--json")
    rows = json.loads(answers.stdout)["images"]
    right = sum(row["labels"][0] == f"{colour_of(row['image'])} picture" for row in rows)
    assert document["accuracy"] == pytest.approx(right / (3 * len(COLOURS)))


def test_profile_counts_both_towers(command: Command, run: Path) -> None:
    document = json.loads(command("profile", run, "--json").stdout)
    assert (document["input"], document["text_length"]) == ([1, 3, 16, 16], 16)
    parts = {part["name"]: part for part in document["parts"]}
    assert {"image_tower", "text_tower"} <= parts.keys()
    assert all(parts[name]["macs"] > 0 and parts[name]["parameters"] > 0 for name in ("image_tower", "text_tower"))
    assert sum(part["parameters"] for part in document["parts"]) == document["parameters"] - 1  # the logit scale
    assert "16 x 16 pixels, a text of 16 tokens" in command("profile", run).stdout


def test_wrong_usage(command: Command, run: Path, folder: Path, tmp_path: Path) -> None:
    image = folder / "red0.png"
    assert_one_clear_line(command("classify", image, "--model", run), "of images and texts; give --labels", code=2)
    assert_one_clear_line(command("caption", image, "--model", run), "kind 'clip'")
    assert_one_clear_line(command("evaluate", run, "--worst", 3), "--worst is for captioners", code=2)
    assert_one_clear_line(command("evaluate", run, "--split", "dev"), "no split 'dev'; it has train, val, test, all")
    train = ("train", "clip", "--out", tmp_path / "x", "--data")
    assert_one_clear_line(command(*train, folder, "--held-out-style", "noto"), "no drawing styles")
    assert_one_clear_line(command(*train, folder, "--image-size", 20), "must be divisible by patch_size", code=2)
    (tmp_path / "silent").mkdir()
    shutil.copy(image, tmp_path / "silent")
    assert_one_clear_line(command(*train, tmp_path / "silent"), "has no captions", "captions.csv")
    (tmp_path / "silent" / "captions.csv").write_text("file,caption\nred0.png,the only one\n", encoding="utf-8")
    assert_one_clear_line(command(*train, tmp_path / "silent"), "the same")
    assert not (tmp_path / "x").exists()


def test_captions_of_every_kind_are_trained_on(command: Command, folder: Path, tmp_path: Path) -> None:
    """Other scripts, emoji, marks only, and one of 10,000 words."""
    shutil.copytree(folder, tmp_path / "odd")
    rows = [
        "file,caption",
        "red0.png,Ωραία γάτα 猫 🐱",
        "red1.png,!?",
        f"red2.png,{'long ' * 10_000}",
        "red3.png,\u200b",
    ]
    (tmp_path / "odd" / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    options = ("--max-steps", 2, "--val-fraction", 0, "--json", *TINY)
    trained = command("train", "clip", "--data", tmp_path / "odd", "--out", tmp_path / "run", *options)
    assert trained.returncode == 0, trained.stderr
    skipped = {row["id"] for row in json.loads(trained.stdout)["skipped"]}
    assert {"blue0.png", "red5.png", "blank.png"} <= skipped and "red0.png" not in skipped
    labelled = command("classify", folder / "red0.png", "--model", tmp_path / "run", "--labels", "猫,γάτα,🐱", "--json")
    assert labelled.returncode == 0, labelled.stderr
    assert set(json.loads(labelled.stdout)["images"][0]["labels"]) == {"猫", "γάτα", "🐱"}
