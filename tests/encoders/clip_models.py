"""A small CLIP network with random weights, and the ways in which it can lie on a disk."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
CONFIG = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}


def tiny_clip(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # biases are zero and norms one at first
    whole = {**PREPROCESSING, "size": 32, "mode": "RGB", "resize_mode": "shortest", "fill_color": 0}
    open_clip.model.set_model_preprocess_cfg(model, whole)
    return model


def save_directory(directory: Path, model: nn.Module, weights: str = "open_clip_model.safetensors") -> Path:
    """A model of open_clip as its tools write it."""
    directory.mkdir(parents=True)
    content = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESSING}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    if weights.endswith(".safetensors"):
        save_file(contiguous(model.state_dict()), directory / weights)
    else:
        torch.save(model.state_dict(), directory / weights)
    return directory


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
