"""The README.md inside a diffusion model's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsin import model_cards
from opsin.model_cards import inline_code


def model_card(image_size: int, text_encoder: str, metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model generates, what it was trained on and needs, and what was measured."""
    return model_cards.model_card(
        title="Text-to-image diffusion model",
        tags=["text-to-image"],
        description=f"""
Generates images of {image_size} x {image_size} pixels from a prompt. Trained with opsin on the images and captions of
the source {inline_code(str(training.get("data", "unknown data")))}; `config.json` holds every setting of the run under
`training`. Prompts go through the text encoder {inline_code(text_encoder)}, which is not in this directory.
""",
        metrics=metrics,
        notes="""
`val_loss` is the mean squared error of the network's prediction, without the weights of the training loss, on images
held out from training, averaged over time steps; `val_loss_t…` is that of a single time step. `seen_loss` is the same
on images that were trained on, where none are held out. Neither says how good the samples are. The model knows its
training captions: expect less of prompts that are unlike them.
""",
        command='opsin generate "PROMPT" --model THIS_DIRECTORY --out grid.png',
    )
