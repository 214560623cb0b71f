"""Settings of runs and of saved models that make no sense are refused in one sentence, before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsin.checkpoint import export_pretrained
from opsin.diffusion.config import DiffusionConfig, ProcessConfig
from opsin.diffusion.inference import TextToImage
from opsin.errors import ConfigError
from opsin.training.run import TrainReport


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1e7])
def test_guidance_of_sample_pictures_is_refused_before_training(scale: float) -> None:
    with pytest.raises(ConfigError, match="sample_guidance must be at least -1000000 and at most 1000000, not"):
        DiffusionConfig(sample_guidance=scale)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_dim": -7}, "text_dim must be at least 1, not -7"),
        ({"text_dim": 0}, "text_dim must be at least 1, not 0"),
        ({"image_size": 15}, r"image_size \(15\) must be divisible by 4"),
        ({"image_size": -8}, "image_size must be at least 1 and at most 4096, not -8"),
        ({"process": {"timesteps": 5, "beta_schedule": "linear"}}, "linear schedule needs more than 20"),
        ({"model": {"dim": 3}}, "dim must be at least 4"),
    ],
)
def test_a_saved_model_with_settings_of_no_network(
    changes: dict[str, object], message: str, colour_run: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    copy = export_pretrained(colour_run[0], tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(ConfigError, match=f"copy, config.json: .*{message}"):
        TextToImage.from_pretrained(copy)


def test_processes_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="timesteps must be at least 1"):
        ProcessConfig(timesteps=0)
    with pytest.raises(ConfigError, match="unknown schedule 'square'"):
        ProcessConfig(beta_schedule="square")  # type: ignore[arg-type]
