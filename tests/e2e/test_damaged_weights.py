"""A model whose weights hold NaN answers no verb with numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import opsin.zoo
from opsin.cli.main import main

VERBS = {
    "emoji-captioner": [["caption", "IMAGES"], ["evaluate"]],
    "emoji-clip": [
        ["classify", "IMAGES", "--labels", "a dog,food"],
        ["evaluate"],
        ["evaluate", "--zero-shot", "--data", "emoji"],
        ["embed", "IMAGES", "--out", "OUT"],
    ],
    "cifar10-simclr": [["evaluate", "--protocol", "knn", "--data", "emoji"], ["index", "IMAGES", "--out", "OUT"]],
    "emoji-diffusion": [["generate", "a dog", "--out", "OUT.png"]],
}


@pytest.mark.parametrize("name", list(VERBS))
def test_nan_weights_are_an_error_in_every_verb(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, images = tmp_path / "model", tmp_path / "images"
    shutil.copytree(Path(opsin.zoo.__file__).parent / name, model)
    tensors = load_file(model / "model.safetensors")
    first = next(key for key, value in tensors.items() if value.is_floating_point() and value.ndim > 1)
    tensors[first].view(-1)[0] = torch.nan
    save_file(tensors, model / "model.safetensors")
    images.mkdir()
    Image.new("RGB", (20, 20), "red").save(images / "red.png")
    places = {"IMAGES": str(images), "OUT": str(tmp_path / "out"), "OUT.png": str(tmp_path / "out.png")}
    for verb in VERBS[name]:
        words = [places.get(word, word) for word in verb]
        reference = [str(model)] if verb[0] == "evaluate" else []
        option = [] if reference else ["--model", str(model)]
        json_option = ["--json"] if verb[0] in ("evaluate", "classify", "caption") else []
        assert main([words[0], *reference, *words[1:], *option, *json_option]) == 1, verb
        output = capfd.readouterr()
        assert "damaged" in output.err and "NaN or Inf" in output.err, output.err
        assert not output.out.strip() or json.loads(output.out)
