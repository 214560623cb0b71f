"""Models of every kind are one directory, and lose nothing on the way through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from opsin.captioning.inference import Captioner
from opsin.checkpoint import MODEL_FILES, read_model_config, resolve_model, zoo_names
from opsin.classification.inference import Classifier
from opsin.clip.inference import ClipEncoder
from opsin.diffusion.inference import TextToImage
from opsin.errors import CheckpointError, ConfigError, OfflineError
from opsin.pretrained import PretrainedModel, load_model
from opsin.simclr.inference import SimclrEncoder

KINDS: dict[str, Any] = {kind.kind: kind for kind in (Captioner, Classifier, ClipEncoder, SimclrEncoder, TextToImage)}


@pytest.fixture(scope="module", params=zoo_names())
def model(request: pytest.FixtureRequest) -> PretrainedModel:
    name = request.param
    return KINDS[read_model_config(resolve_model(name))["kind"]].from_pretrained(name, "cpu", "32")


def test_saved_and_loaded_again(model: PretrainedModel, tmp_path: Path) -> None:
    directory = model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in directory.iterdir()) == sorted(MODEL_FILES)
    again = type(model).from_pretrained(directory, "cpu", "32")
    assert again.precision == "32" and again.device == torch.device("cpu")
    tensors = again.model.state_dict()
    assert tensors.keys() == model.model.state_dict().keys()
    for name, tensor in model.model.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()
    assert json.loads((directory / "config.json").read_text())["metrics"] == model.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": [1]}, r"training should hold the settings of a run, not \[1\]"),
        ({"training": {"dat": "x"}}, "training: unknown setting 'dat'; did you mean 'data'"),
        ({"training": {"source_digest": 5}}, "training: 'source_digest' should be a text, not 5"),
        ({"run": {"data": "x"}}, "unknown setting 'run'; did you mean 'training'"),
        ({"metrics": None}, '"metrics"'),
    ],
)
def test_a_record_of_a_run_that_is_none(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = load_model("cifar10-simclr", "cpu").save_pretrained(tmp_path / "model")
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ConfigError, match=f"config.json.*{message}"):
        load_model(directory, "cpu")


def test_a_run_that_is_not_known(tmp_path: Path) -> None:
    directory = load_model("cifar10-simclr", "cpu").save_pretrained(tmp_path / "model")
    content = json.loads((directory / "config.json").read_text())
    for training in ({}, None):
        (directory / "config.json").write_text(json.dumps({**content, "training": training}))
        model = load_model(directory, "cpu")
        assert model.run is None and "unknown data" in model.card_text().description
    assert json.loads((model.save_pretrained(tmp_path / "again") / "config.json").read_text())["training"] == {}


def test_what_is_uploaded_is_the_directory(
    model: PretrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploaded: dict[str, Any] = {}

    def upload(api: object, repo_id: str, folder_path: str) -> None:
        uploaded[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    monkeypatch.delenv("OPSIN_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda api, repo_id, **_: f"hub/{repo_id}")
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert model.push_to_hub("somebody/model") == "hub/somebody/model"
    directory = model.save_pretrained(tmp_path / "model")
    assert uploaded == {"somebody/model": {name: (directory / name).read_bytes() for name in MODEL_FILES}}
    monkeypatch.setenv("OPSIN_OFFLINE", "1")
    with pytest.raises(OfflineError, match="cannot be uploaded"):
        model.push_to_hub("somebody/model")


def test_what_cannot_be_loaded(model: PretrainedModel, tmp_path: Path) -> None:
    directory = model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="precision 16 needs a GPU"):
        type(model).from_pretrained(directory, "cpu", "16")
    with pytest.raises(ConfigError, match="unknown device"):
        type(model).from_pretrained(directory, "nothing")
    for kind in KINDS.values():
        if kind is not type(model):
            with pytest.raises(CheckpointError, match=f"holds a model of kind {model.kind!r}"):
                kind.from_pretrained(directory)
