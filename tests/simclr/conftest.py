"""A folder of patterns that views leave recognisable, and a run on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opsin.images.preprocessing import Preprocessing
from opsin.pretrained import RunRecord
from opsin.probing.evaluation_set import EvaluationSet, open_evaluation_set
from opsin.simclr.config import AugmentConfig, EncoderConfig, SimclrConfig
from opsin.simclr.data import open_splits
from opsin.simclr.inference import SimclrContent, SimclrEncoder
from opsin.simclr.model import SimclrModel, build_encoder
from opsin.simclr.train import SimclrTask, train_simclr
from opsin.training.config import TrainingConfig
from opsin.training.run import TrainReport

Run = tuple[Path, TrainReport]
PERIODS = {"fine": 2, "middle": 4, "coarse": 8}
TINY_VIT = EncoderConfig(name="vit", patch_size=4, embed_dim=16, num_layers=1, num_heads=2)


def make_pattern_folder(directory: Path, per_class: int = 16) -> Path:
    """Checks of three sizes, in class folders, each picture in two random colours; one file is broken."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    for name, period in PERIODS.items():
        (directory / name).mkdir(parents=True)
        for index in range(per_class):
            shift = generator.integers(period)
            mask = ((rows + shift) // period + (columns + shift) // period) % 2
            colours = generator.integers(0, 256, (2, 3))
            Image.fromarray(colours[mask].astype(np.uint8)).save(directory / name / f"{index:02d}.png")
    (directory / "fine" / "broken.png").write_bytes(b"no image")
    return directory


def tiny_config(data: Path | str, **options: object) -> SimclrConfig:
    """A run of a few seconds; options of the training go by their names."""
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    training = {"max_steps": 30, "batch_size": 16, "learning_rate": 3e-3, "validations": 2, "device": "cpu"}
    training |= {name: value for name, value in options.items() if name in names}
    settings: dict = {
        "data": str(data),
        "image_size": 16,
        "val_fraction": 0.25,
        "projection_dim": 8,
        "projection_hidden": 16,
        "encoder": TINY_VIT,
        "augment": AugmentConfig(min_crop=0.5),
        **{name: value for name, value in options.items() if name not in names},
    }
    return SimclrConfig(training=TrainingConfig(**training), **settings)  # type: ignore[arg-type]


def task_of(config: SimclrConfig) -> SimclrTask:
    return SimclrTask(config, open_splits(config))


@pytest.fixture(scope="session")
def pattern_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pattern_folder(tmp_path_factory.mktemp("patterns") / "images")


@pytest.fixture(scope="session")
def pattern_run(pattern_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A ResNet-18 on views of 8 pixels."""
    config = tiny_config(
        pattern_folder, encoder=EncoderConfig(), augment=AugmentConfig(min_crop=0.5, view_size=8), learning_rate=1e-3
    )
    directory = tmp_path_factory.mktemp("runs") / "patterns"
    return directory, train_simclr(config, directory)


@pytest.fixture(scope="session")
def encoder(pattern_run: Run) -> SimclrEncoder:
    return SimclrEncoder.from_pretrained(pattern_run[0], device="cpu", precision="32")


@pytest.fixture(scope="session")
def parts(encoder: SimclrEncoder) -> EvaluationSet:
    return open_evaluation_set(encoder, None, None, 1.0, seed=0)


@pytest.fixture(scope="session")
def small(pattern_folder: Path) -> SimclrEncoder:
    """A Vision Transformer that has not learned anything, for what takes training."""
    torch.manual_seed(0)
    content = SimclrContent(
        encoder=TINY_VIT,
        projection=None,
        preprocessing=Preprocessing(image_size=16),
        run=RunRecord(config=tiny_config(pattern_folder)),
    )
    network = SimclrModel(build_encoder(TINY_VIT, 16), nn.Identity()).requires_grad_(False)
    return SimclrEncoder(network, content, name="small", precision="32")
