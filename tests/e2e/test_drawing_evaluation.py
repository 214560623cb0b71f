"""`opsin evaluate` of a text-to-image model; and what a person can get wrong on the way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin.checkpoint import ZOO_DIRECTORY
from opsin.cli.main import main
from opsin.diffusion.inference import TextToImage
from opsin.diffusion.train import train_diffusion
from opsin.encoders.loading import load
from tests.diffusion.conftest import tiny_config

from .conftest import assert_one_clear_line

Command = Callable[..., subprocess.CompletedProcess[str]]
NAMES = (
    "cat face",
    "red apple",
    "blue heart",
    "green leaf",
    "soccer ball",
    "yellow star",
    "black circle",
    "white flag",
)


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
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two steps: it draws noise."""
    folder = tmp_path_factory.mktemp("named") / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(name, encoding="utf-8")
    out = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config(folder, max_steps=2, val_fraction=0.3, text_encoder="emoji-clip", validations=1)
    train_diffusion(config, out, text_encoder=load("emoji-clip", "cpu", "32"))  # type: ignore[arg-type]
    return out


def test_tables_pictures_and_the_next_command(command: Command, run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "fidelity.png"
    result = command("evaluate", run, "--steps", "2,4", "--samplers", "ddim", "--picture", picture, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "prompt fidelity: 6 training and 2 held-out prompts" in result.stdout
    assert "nearest of 8 names by emoji-clip" in result.stdout
    assert "Fréchet distance of emoji-clip features" in result.stdout and "FID" not in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[1:5] for line in lines if line[:1] == ["drawn"]][:4] == [
        ["2", steps, "ddim", part] for steps in "24" for part in ("training", "held-out")
    ]
    assert sum(line[:1] == ["real"] for line in lines) == 4
    assert "also what gives the model its prompts" in result.stdout
    assert "top-5 of training prompts of chance: 0.625" in result.stdout
    # Two steps of training draw noise, which is no better than chance.
    assert "warning: top-5 of training prompts" in result.stderr and "next:" not in result.stderr
    for path in (picture, tmp_path / "fidelity-nearest.png"):
        with Image.open(path) as image:
            assert image.width > 200


def test_the_document_and_the_report(command: Command, run: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ("evaluate", run, "--json", "--quiet", "--steps", "2", "--prompts", 3, "--report", report)
    result = command(*arguments, "--samplers", "ddim,unipc", "--guidances", "0,1.5")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert [(cell["guidance_scale"], cell["sampler"]) for cell in document["cells"]] == [
        (scale, name) for scale in (0, 1.5) for name in ("ddim", "unipc")
    ]
    assert document["judge_is_text_encoder"] and document["names"] == 8
    assert len(document["prompts"]["train"]) == 3 and set(document["real"]) == {"train", "held_out"}
    for kept, printed in zip(json.loads(report.read_text())["cells"], document["cells"], strict=True):
        for part, scores in kept["scores"].items():  # the report has all digits
            assert scores == pytest.approx(printed["scores"][part], rel=1e-5)
    refused = command("evaluate", run, "--quiet", "--steps", "2", "--prompts", 2, "--report", report)
    assert_one_clear_line(refused, "is about something else", "another name")


def test_interrupted(command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    generate = TextToImage.generate

    def interrupted(model: TextToImage, *arguments: Any, **options: Any) -> Any:
        calls.append(options)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(model, *arguments, **options)

    monkeypatch.setattr(TextToImage, "generate", interrupted)
    report = tmp_path / "report.json"
    arguments = ("evaluate", run, "--steps", "2,3,4", "--prompts", 2, "--report", report, "--quiet")
    result = command(*arguments)
    assert result.returncode == 130 and result.stderr == "opsin: interrupted\n"
    assert sum(line.split()[:1] == ["drawn"] for line in result.stdout.splitlines()) == 4, "two lines in two tables"
    assert [cell["steps"] for cell in json.loads(report.read_text())["cells"]] == [2]
    again = command(*arguments)
    assert again.returncode == 0 and len(calls) == 4 + 4, "what was measured is not drawn again"
    assert [cell["steps"] for cell in json.loads(report.read_text())["cells"]] == [2, 3, 4]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--steps", "0"), 1, "steps must be at least 1 and at most 50"),
        (("--steps", "10,51"), 1, "at most 50"),
        (("--steps", "10,x"), 2, "--steps takes whole numbers with commas between them, not '10,x'"),
        (("--steps", ""), 2, "--steps takes whole numbers"),
        (("--guidances", "1;2"), 2, "--guidances takes numbers"),
        (("--guidances", "nan"), 1, "guidance_scale must be at least"),
        (("--samplers", "ddim,euler"), 2, "--samplers takes ddpm, ddim, dpm-solver, unipc, not 'euler'"),
        (("--prompts", "0"), 2, "--prompts must be at least 1"),
        (("--samples", "-1"), 2, "--samples must be at least 1"),
        (("--beams", "2"), 2, "--beams is for captioners, and"),
        (("--split", "tset"), 1, "no split 'tset'"),
        (("--data", "nowhere"), 1, "there is no data source 'nowhere'"),
        (("--judge", "emoji-captioner"), 1, "emoji-captioner"),
        (("--judge", "no-such-model"), 1, "there is no model 'no-such-model'"),
    ],
)
def test_bad_input(command: Command, run: Path, options: tuple[str, ...], code: int, words: str) -> None:
    assert_one_clear_line(command("evaluate", run, "--quiet", "--device", "cpu", *options), words, code=code)


def test_options_of_drawings_are_for_models_that_draw(command: Command) -> None:
    captioner = ZOO_DIRECTORY / "emoji-captioner"
    assert_one_clear_line(command("evaluate", captioner, "--steps", "3"), "--steps is for text-to-image models", code=2)
    assert_one_clear_line(command("evaluate", "emoji-clip", "--seed", "3"), "--seed is for", code=2)


def test_a_text_encoder_that_is_not_there(command: Command, run: Path) -> None:
    result = command("evaluate", run, "--text-encoder", "no-such-model", "--prompts", 1)
    assert_one_clear_line(result, "say where it is now with --text-encoder", "there is no model 'no-such-model'")


def test_a_report_in_a_place_that_cannot_be(command: Command, run: Path) -> None:
    result = command("evaluate", run, "--quiet", "--steps", "2", "--report", run / "config.json" / "x.json")
    assert_one_clear_line(result, "could not be written")
