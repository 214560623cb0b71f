"""State dicts that are hostile: what they ask for beyond their size is refused before it costs anything."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from opsin import Classifier
from opsin.checkpoint import load_training_state, save_training_state
from opsin.classification.config import ViTConfig
from opsin.classification.inference import ClassifierContent, build_model
from opsin.config import load_json
from opsin.errors import CheckpointError
from opsin.files import write_json
from opsin.images.preprocessing import Preprocessing

IMPOSSIBLE: list[dict[str, dict[str, int]]] = [
    {"model": {"num_layers": 10**9}},
    {"model": {"embed_dim": 10**7, "num_heads": 1}},
    {"model": {"dim_feedforward": 10**12}},
    {"model": {"patch_size": 0}},
    {"preprocessing": {"image_size": 4000}},
    {"preprocessing": {"image_size": 100_000}},
]
LOAD_ALL = """
import resource, sys
import opsin, opsin.encoders
from opsin.errors import CheckpointError, ConfigError
opsin.Classifier
before = resource.getrusage(resource.RUSAGE_SELF)
resource.setrlimit(resource.RLIMIT_CPU, (int(before.ru_utime + before.ru_stime) + 60,) * 2)
for model in sys.argv[1:]:
    for load in (opsin.Classifier.from_pretrained, opsin.encoders.load):
        try:
            load(model)
        except (CheckpointError, ConfigError) as error:
            print("refused", error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
assert grown < 400_000, grown  # kB
"""


def test_a_config_that_asks_for_another_network_costs_nothing(tmp_path: Path) -> None:
    """Memory and time of the process that loads them are limited, so that a failure fails and does not hang."""
    config = ViTConfig(embed_dim=8, num_layers=1, num_heads=1, dim_feedforward=8, positions="learned")
    content = ClassifierContent(model=config, class_names=("a", "b"), preprocessing=Preprocessing(image_size=8))
    classifier = Classifier(build_model(config, 8, 2), content)
    models = []
    for number, changes in enumerate(IMPOSSIBLE):
        model = classifier.save_pretrained(tmp_path / str(number))
        content = load_json(model / "config.json")
        for part, settings in changes.items():
            content[part].update(settings)
        write_json(model / "config.json", content)
        models.append(str(model))
    result = subprocess.run([sys.executable, "-c", LOAD_ALL, *models], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("refused") == 2 * len(IMPOSSIBLE)


def test_a_compressed_state_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    save_training_state(tmp_path / "state.pt", {"weights": torch.zeros(1000)})
    with zipfile.ZipFile(tmp_path / "state.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="packed.pt was refused: it is a compressed archive"):
        load_training_state(tmp_path / "packed.pt")
