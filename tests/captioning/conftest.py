"""Small captioning models, captions to score, and a captioned folder that is easy to learn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.captioning.config import CaptioningConfig, DecoderConfig, EncoderConfig
from opsin.captioning.model import CaptioningTransformer
from opsin.captioning.train import train_captioner
from opsin.training.config import TrainingConfig
from opsin.training.run import TrainReport

SPECIAL = ("<NULL>", "<START>", "<END>", "<UNK>")


def word_table(words: int) -> dict[str, int]:
    """The four special words and so many others."""
    return {word: index for index, word in enumerate([*SPECIAL, *(f"w{number}" for number in range(words))])}


def make_model(words: int = 12, seed: int = 0, **options: object) -> CaptioningTransformer:
    """A model with random weights, large enough for clear preferences and small enough for hundreds of runs."""
    torch.manual_seed(seed)
    settings = {"num_heads": 2, "num_layers": 2, "max_length": 30, "dim_feedforward": 32, **options}
    model = CaptioningTransformer(word_table(words), 6, 16, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0 if name == "output.weight" else 15.0)
        if model.output is not None:
            model.output.bias[2] += 2.0  # most captions end, each at its own time
    return model.eval()


@pytest.fixture(scope="session")
def captions() -> list[dict]:
    """Images with 3 to 5 reference captions and one caption as a model might write it."""
    return json.loads((Path(__file__).parent / "captions.json").read_text(encoding="utf-8"))


COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 60), "red": (210, 30, 30)}


def make_captioned_folder(directory: Path, per_colour: int = 10) -> Path:
    """Noisy pictures of one colour, with two captions each, a picture without caption and a broken one."""
    generator = np.random.default_rng(0)
    directory.mkdir(parents=True)
    rows = ["file,caption", "broken.png,a broken picture"]
    for name, colour in COLOURS.items():
        for index in range(per_colour):
            pixels = np.clip(np.array(colour) + generator.integers(-15, 16, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(directory / f"{name}{index}.png")
            rows += [f"{name}{index}.png,A {name} picture.", f"{name}{index}.png,something all in {name}"]
    Image.new("RGB", (8, 8)).save(directory / "silent.png")
    (directory / "broken.png").write_bytes(b"no image")
    (directory / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return directory


def tiny_config(data: Path | str, **options: object) -> CaptioningConfig:
    """A run of a few seconds; options of the training go by their names."""
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    training = {"max_steps": 60, "batch_size": 12, "learning_rate": 1e-2, "validations": 2, "device": "cpu"}
    training |= {name: value for name, value in options.items() if name in names}
    settings: dict = {
        "data": str(data),
        "image_size": 16,
        "val_fraction": 0.2,
        "shift": 1,
        "encoder": EncoderConfig(patch_size=4, embed_dim=32, num_layers=1, num_heads=2, dim_feedforward=32),
        "decoder": DecoderConfig(embed_dim=32, num_layers=2, num_heads=2, dim_feedforward=32, max_length=10),
        **{name: value for name, value in options.items() if name not in names},
    }
    return CaptioningConfig(training=TrainingConfig(**training), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def captioned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned_folder(tmp_path_factory.mktemp("captioned") / "images")


@pytest.fixture(scope="session")
def colour_run(captioned_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    directory = tmp_path_factory.mktemp("runs") / "colours"
    config = tiny_config(captioned_folder, test_fraction=0.2)
    return directory, train_captioner(config, directory)
