"""The README.md inside a diffusion model's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(image_size: int, text_encoder: str, metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model draws, what it was trained on and needs, and what was measured."""
    data = training.get("data", "unknown data")
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()) or "| none measured | |"
    return f"""---
library_name: opsin
tags: [text-to-image]
---

# Text-to-image diffusion model

Draws pictures of {image_size} x {image_size} pixels from a prompt. Trained with opsin on the images and captions of the
source `{data}`; `config.json` holds every setting of the run under `training`. Prompts go through the text encoder
`{text_encoder}`, which is not in this directory.

| measured | value |
| --- | --- |
{scores}

`val_loss` is the mean squared error of the network's prediction, without the weights of the training loss, on images
held out from training, averaged over time steps; `val_loss_t…` is that of a single time step. `seen_loss` is the same
on images that were trained on, where none are held out. Neither says how good the pictures are. The model knows its
training captions: expect less of prompts that are unlike them.

    opsin generate "PROMPT" --model THIS_DIRECTORY --out grid.png
"""
