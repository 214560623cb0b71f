"""`--exclude` from the command line: a run remembers its patterns, and every verb that takes images knows them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from opsin.cli.main import main
from tests.classification.conftest import make_colour_folder

from .test_classification import SHORT

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 images of three colours, and copies of them in another folder of each class and in one beside."""
    folder = make_colour_folder(tmp_path / "colours", per_class=8)
    for name in ("blue", "green", "red"):
        shutil.copytree(folder / name, folder / name / "copies")
    shutil.copytree(folder / "red" / "copies", folder / "junk")
    return folder


def answer(capsys: Capture, *command: object, code: int = 0) -> dict:
    assert main([*map(str, command), "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_run_and_its_evaluations(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    train = ["train", "vit", "--data", folder, "--out", out, *SHORT, "--exclude", "copies", "junk"]
    answer(capsys, *train, "--max-steps", 2, "--val-fraction", 0.25)
    assert json.loads((out / "config.json").read_text())["exclude"] == ["copies", "junk"]
    # The same command again, or none of its options, goes on.
    answer(capsys, *train, "--max-steps", 3, "--val-fraction", 0.25, "--resume")
    answer(capsys, "train", "vit", "--out", out, "--resume", "--max-steps", 4)
    assert main(["train", "vit", "--out", str(out), "--resume", "--max-steps", "5", "--exclude", "more"]) == 2
    assert "started with another exclude" in capsys.readouterr().err

    assert answer(capsys, "evaluate", out)["count"] == 6
    assert answer(capsys, "evaluate", out, "--split", "all")["count"] == 24
    assert answer(capsys, "evaluate", out, "--split", "all", "--exclude", "red", "--exclude", "junk")["count"] == 16
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    other = answer(capsys, "evaluate", out, "--data", elsewhere, "--exclude", "junk", "--exclude", "0[1-7].png")
    assert other["count"] == 6

    classified = answer(capsys, "classify", folder, "--model", out, "--exclude", "copies", "--exclude", "junk")
    assert len(classified["images"]) == 24


def test_looking_a_folder_over(folder: Path, capsys: Capture) -> None:
    report = answer(capsys, "data", "check", folder, "--exclude", "copies", "--exclude", "junk")
    assert (report["count"], report["duplicates"]) == (24, [])
    captions = main(["caption", str(folder / "red"), "--exclude", "copies", "--exclude", "0[2-7].png", "--quiet"])
    assert captions == 0
    assert "copies" not in capsys.readouterr().out
