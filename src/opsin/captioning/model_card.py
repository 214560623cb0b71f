"""The README.md inside a captioner's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(num_words: int, metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model was trained on, how many words it knows, and what was measured."""
    data = training.get("data", "unknown data")
    frozen = training.get("frozen_encoder")
    needs = f"\nIt looks at images through the encoder `{frozen}`, which is not in this directory.\n" if frozen else ""
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()) or "| none measured | |"
    return f"""---
library_name: opsin
tags: [image-to-text]
---

# Image captioner

A transformer decoder that knows {num_words} words, trained with opsin on the source `{data}`; `config.json` holds every
setting of the run under `training`, the vocabulary and the preprocessing.
{needs}
| measured | value |
| --- | --- |
{scores}

`val_…` is on images held out from training, with greedy decoding; `test_…` is on the test images, with the run's
number of beams, and `other_style_…` on drawings of training emoji in the style that was held out of training. BLEU,
ROUGE-L and exact match are in 0 to 1, CIDEr-D is in 0 to 10; texts are cut into words by opsin's own rules. The model
knows only what its training captions say: expect wrong captions for other pictures.

    opsin caption IMAGES --model THIS_DIRECTORY
"""
