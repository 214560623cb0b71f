"""A small text encoder, a captioned folder that is easy to learn, and a short run on it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from opsin.diffusion.config import DiffusionConfig, ProcessConfig, UnetConfig
from opsin.diffusion.train import train_diffusion
from opsin.training.config import TrainingConfig
from opsin.training.run import TrainReport

COLOURS = {"blue": (20, 40, 220), "green": (30, 190, 60), "red": (220, 30, 30)}


class BagOfWords:
    """A text encoder: the sum of a fixed random vector for each word."""

    name = "bag-of-words"
    fingerprint = "bag of words"

    def __init__(self, width: int = 16) -> None:
        self.width = width
        self.calls = 0

    def encode_text(self, texts: Iterable[str], *, normalize: bool = True) -> Tensor:
        self.calls += 1
        features = torch.stack([sum(map(self._word, text.lower().split()), self._word("")) for text in texts])
        return F.normalize(features, dim=1) if normalize else features

    def _word(self, word: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed))


def make_prompted_folder(directory: Path, per_colour: int = 10) -> Path:
    """Pictures of one colour with two captions each, a picture without caption and a broken one."""
    generator = np.random.default_rng(0)
    directory.mkdir(parents=True)
    rows = ["file,caption", "broken.png,a broken picture"]
    for name, colour in COLOURS.items():
        for index in range(per_colour):
            pixels = np.clip(np.array(colour) + generator.integers(-9, 10, (10, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(directory / f"{name}{index}.png")
            rows += [f"{name}{index}.png,{name}", f"{name}{index}.png,all {name}"]
    Image.new("RGB", (8, 8)).save(directory / "silent.png")
    (directory / "broken.png").write_bytes(b"no image")
    (directory / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return directory


def tiny_config(data: Path | str, **options: object) -> DiffusionConfig:
    """A run of a few seconds; options of the training go by their names."""
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    training = {"max_steps": 150, "batch_size": 16, "learning_rate": 5e-3, "weight_decay": 0.0, "validations": 2}
    training |= {"device": "cpu", "precision": "32", "ema_decay": 0.95, "export": "last"}
    training |= {name: value for name, value in options.items() if name in names}
    settings: dict = {
        "data": str(data),
        "image_size": 8,
        "val_fraction": 0.2,
        "text_encoder": "bag-of-words",
        "model": UnetConfig(dim=16, dim_mults=(1, 2)),
        "process": ProcessConfig(timesteps=50),
        **{name: value for name, value in options.items() if name not in names},
    }
    return DiffusionConfig(training=TrainingConfig(**training), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def prompted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_prompted_folder(tmp_path_factory.mktemp("prompted") / "images")


@pytest.fixture(scope="session")
def colour_run(prompted_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    directory = tmp_path_factory.mktemp("runs") / "colours"
    return directory, train_diffusion(tiny_config(prompted_folder), directory, text_encoder=BagOfWords())
