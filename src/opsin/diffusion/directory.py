"""The directory of a trained diffusion model: its settings and weights as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opsin import checkpoint
from opsin.config import from_dict, to_dict
from opsin.diffusion.config import ProcessConfig, UnetConfig, refuse_senseless_size
from opsin.diffusion.model import TextDiffusion, build_model
from opsin.diffusion.model_card import model_card
from opsin.errors import ConfigError
from opsin.state_dicts import build_to_fit

KIND = "text-diffusion"


@dataclass(frozen=True, kw_only=True)
class DiffusionContent:
    """What config.json of a diffusion model holds besides its kind and format version."""

    model: UnetConfig
    process: ProcessConfig
    image_size: int
    text_encoder: str
    """The reference of the text encoder whose vectors the network was trained on."""
    text_fingerprint: str | None = None
    """That encoder's `opsin.encoders.fingerprint`; None where it is not known."""
    text_dim: int
    metrics: dict[str, float]
    training: dict[str, Any]

    def __post_init__(self) -> None:
        refuse_senseless_size(self.image_size, self.model)
        if self.text_dim < 1:
            raise ConfigError(f"text_dim must be at least 1, not {self.text_dim}")


def read_model(ref: str | Path) -> tuple[DiffusionContent, TextDiffusion]:
    """Settings and model, on the CPU in float32, that a zoo name, a run or model directory, or `hf-hub:…` names.

    Raises CheckpointError, OfflineError, and ConfigError for a config.json that describes no network.
    """
    settings, tensors = checkpoint.load_pretrained(ref, kind=KIND)
    content = from_dict(DiffusionContent, settings, where=f"{ref}, config.json")
    model = build_to_fit(
        lambda: build_model(content.model, content.process, content.image_size, content.text_dim),
        # Weights may be kept in float16; they run in float32 or under autocast. Those of a run's state have the noise
        # schedule besides, which follows from the settings.
        {name: tensor.float() for name, tensor in tensors.items() if not _is_of_schedule(name)},
        str(ref),
        derived=_is_of_schedule,
    )
    return content, model.to(memory_format=torch.channels_last)


def write_model(
    directory: str | Path, content: DiffusionContent, model: TextDiffusion, domain: Mapping[str, Any] | None = None
) -> Path:
    """Write config.json, model.safetensors, README.md and, where it is given, domain.json, replacing the directory in
    one step."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not _is_of_schedule(name)}
    card = model_card(content.image_size, content.text_encoder, content.metrics, content.training)
    return checkpoint.save_pretrained(
        directory, kind=KIND, config=to_dict(content), tensors=tensors, card=card, domain=domain
    )


def _is_of_schedule(name: str) -> bool:
    """The noise schedule follows from the settings; rounded to float16 it would be another one."""
    return name.startswith("diffusion.") and not name.startswith("diffusion.model.")
