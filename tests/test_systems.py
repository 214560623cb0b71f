"""The registry of systems: its rows lead somewhere, and a row is all that a new system needs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin import systems
from opsin.cli.main import main
from opsin.encoders import load as load_encoder
from opsin.encoders.base import NetworkEncoder
from opsin.errors import CheckpointError, ConfigError
from opsin.pretrained import PretrainedModel, load_model
from opsin.systems import SYSTEMS, System, load, system_of_kind
from tests.toy_system import ROW, ToyModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of colors."""
    generator = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 40, (8, 8, 3), dtype=np.uint8)
            pixels[..., channel] += 200
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_a_row_leads_to_all_that_it_names(system: System) -> None:
    found = {field.name: getattr(system, field.name) for field in dataclasses.fields(system)}
    references = {name: value for name, value in found.items() if isinstance(value, str) and "opsin." in value[:6]}
    assert {"config", "recipes", "train", "model", "evaluate"} <= references.keys()
    loaded = {name: load(reference) for name, reference in references.items()}
    model, config = loaded["model"], loaded["config"]
    assert issubclass(model, PretrainedModel) and model.kind == system.kind
    assert model.content_class.config_class is config
    assert all(isinstance(recipe(), config) for recipe in loaded["recipes"].values())
    assert system_of_kind(system.kind) is system


def test_the_registry_imports_nothing_of_a_system() -> None:
    code = "import opsin.systems, sys; print(sorted(name for name in sys.modules if name.partition('.')[0] == 'opsin'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['opsin', 'opsin.errors', 'opsin.systems']"


def test_one_row_is_a_system(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is trained, evaluated, profiled and exported by the commands, and encodes images for every verb."""
    monkeypatch.setitem(SYSTEMS, "toy", ROW)
    run, device = tmp_path / "run", ("--device", "cpu", "--quiet")

    def answer(*arguments: object) -> str:
        assert main([*map(str, arguments)]) == 0
        return capsys.readouterr().out

    options = ("--max-steps", 60, "--learning-rate", 0.1, *device)
    trained = json.loads(answer("train", "toy", "--data", folder, "--out", run, "--json", *options))
    assert trained["steps"] == 60
    assert json.loads(answer("evaluate", run, "--json", *device)) == {"accuracy": 1.0}
    profile = json.loads(answer("profile", run, "--json"))
    assert (profile["input"], profile["parameters"]) == ([1, 3, 8, 8], 3 * 4 + 4 + 4 * 2 + 2)
    answer("export", run, "--out", tmp_path / "copy", "--half")
    answer("export", run, "--out", tmp_path / "last", "--weights", "last")
    images = [folder / "red" / "0.png", folder / "blue" / "0.png"]
    ours, named = load_model(run, "cpu", "32"), load_encoder(str(run), "cpu", "32")
    assert isinstance(ours, ToyModel) and isinstance(named, ToyModel) and named.fingerprint == ours.fingerprint
    assert (ours.encode_image(images) == named.encode_image(images)).all()
    assert main(["export", str(run), "--out", str(tmp_path / "alone"), "--encoder-only"]) == 1
    assert "has no projection to leave out" in capsys.readouterr().err


def test_a_row_that_names_nothing_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dataclasses.replace(ROW, recipes="opsin.no_such_slice.recipes:RECIPES")
    monkeypatch.setitem(SYSTEMS, "toy", row)
    assert main(["train", "toy", "--data", str(folder), "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == (
        "opsin: opsin.systems names opsin.no_such_slice.recipes:RECIPES, and there is no module opsin.no_such_slice\n"
    )
    with pytest.raises(ConfigError, match=r"names opsin.errors:Nothing, and opsin.errors has no Nothing"):
        load("opsin.errors:Nothing")


def test_what_a_module_of_a_system_lacks_is_no_fault_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "incomplete_slice.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_library'"):
        systems.load("incomplete_slice:train")


@pytest.mark.parametrize("verb", [["evaluate"], ["profile"], ["export", "--weights", "best", "--out", "x"]])
def test_a_model_of_an_unknown_kind_is_refused(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_model("cifar10-simclr", "cpu").save_pretrained(tmp_path / "model")
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**content, "kind": "sculptor"}))
    assert main([verb[0], "model", *verb[1:]]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("opsin: ")
    if verb[0] != "export":
        assert "model is a model of kind 'sculptor', which this opsin does not know; it knows vit-classifier" in error
    with pytest.raises(CheckpointError, match="of kind 'sculptor', which this opsin does not know"):
        load_encoder("model")


def test_models_without_images_to_encode_are_no_encoders() -> None:
    assert {system.name for system in SYSTEMS.values() if issubclass(load(system.model), NetworkEncoder)} == {
        "vit",
        "classifier",
        "simclr",
        "clip",
    }
    with pytest.raises(CheckpointError, match="emoji-diffusion holds a model of kind 'text-diffusion', which is no"):
        load_encoder("emoji-diffusion", "cpu")
