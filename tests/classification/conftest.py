"""A labelled folder that is easy to learn, and a classifier that has learned it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.classification.config import AugmentConfig, ClassificationConfig, ViTConfig
from opsin.classification.train import train_classifier
from opsin.training.config import TrainingConfig
from opsin.training.run import TrainReport

COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 60), "red": (210, 30, 30)}


def make_colour_folder(directory: Path, per_class: int = 12) -> Path:
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (directory / name).mkdir(parents=True)
        for index in range(per_class):
            noise = generator.integers(-15, 16, (20, 24, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(directory / name / f"{index:02d}.png")
    return directory


def tiny_config(data: Path | str, **training: object) -> ClassificationConfig:
    settings: dict = {
        "max_steps": 40,
        "batch_size": 12,
        "learning_rate": 3e-3,
        "validations": 2,
        "device": "cpu",
        **training,
    }
    return ClassificationConfig(
        data=str(data),
        image_size=16,
        val_fraction=0.25,
        model=ViTConfig(patch_size=4, embed_dim=32, num_layers=2, num_heads=2, dim_feedforward=64),
        augment=AugmentConfig(shift=1),
        training=TrainingConfig(**settings),
    )


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colour_folder(tmp_path_factory.mktemp("colours") / "images")


@pytest.fixture(scope="session")
def colour_run(colour_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    directory = tmp_path_factory.mktemp("runs") / "colours"
    return directory, train_classifier(tiny_config(colour_folder), directory)
