"""A captioned folder that is easy to learn, and a run on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.clip.config import AugmentConfig, ClipConfig, ImageTowerConfig, TextTowerConfig
from opsin.clip.train import train_clip
from opsin.training.config import TrainingConfig
from opsin.training.run import TrainReport

COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 60), "red": (210, 30, 30), "grey": (120, 120, 120)}
NO_CHANGES = AugmentConfig(geometry=0, style=0, word_dropout=0, word_shuffle=0, prefix=0, subword_dropout=0)


def make_captioned_folder(directory: Path, per_colour: int = 8) -> Path:
    """Noisy pictures of one colour with two captions each, one in another script, one without caption, one broken."""
    generator = np.random.default_rng(0)
    directory.mkdir(parents=True)
    rows = ["file,caption", "broken.png,a broken picture", "blank.png, "]
    for name, colour in COLOURS.items():
        for index in range(per_colour):
            pixels = np.clip(np.array(colour) + generator.integers(-15, 16, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(directory / f"{name}{index}.png")
            rows += [f"{name}{index}.png,{name} picture", f"{name}{index}.png,all in {name}"]
    Image.new("RGB", (8, 8)).save(directory / "blank.png")
    Image.new("RGB", (8, 8), "white").save(directory / "white.png")
    rows += ["white.png,თეთრი 白", "white.png," + "white " * 10_000]
    (directory / "broken.png").write_bytes(b"no image")
    (directory / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    return directory


def tiny_config(data: Path | str, **options: object) -> ClipConfig:
    """A run of a few seconds; options of the training go by their names."""
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    training = {"max_steps": 40, "batch_size": 16, "learning_rate": 5e-3, "validations": 2, "device": "cpu"}
    training |= {name: value for name, value in options.items() if name in names}
    settings: dict = {
        "data": str(data),
        "image_size": 16,
        "val_fraction": 0.2,
        "embed_dim": 16,
        "image": ImageTowerConfig(patch_size=4, embed_dim=16, num_layers=1, num_heads=2, dim_feedforward=32),
        "text": TextTowerConfig(
            vocab_size=300, max_length=16, embed_dim=16, num_layers=1, num_heads=2, dim_feedforward=32
        ),
        **{name: value for name, value in options.items() if name not in names},
    }
    return ClipConfig(training=TrainingConfig(**training), **settings)  # type: ignore[arg-type]


def colour_config(folder: Path) -> ClipConfig:
    """Varied in place and words only: the colours are what is to be learned."""
    return tiny_config(folder, test_fraction=0.2, max_steps=300, augment=AugmentConfig(style=0))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned_folder(tmp_path_factory.mktemp("clip") / "colours")


@pytest.fixture(scope="session")
def colour_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    directory = tmp_path_factory.mktemp("clip") / "run"
    return directory, train_clip(colour_config(folder), directory)
