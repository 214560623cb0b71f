"""The README.md inside the directory of a CLIP model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model was trained on and what was measured."""
    data = training.get("data", "unknown data")
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()) or "| none measured | |"
    return f"""---
library_name: opsin
tags: [clip, image-text-retrieval, zero-shot-image-classification]
---

# Dual encoder of images and texts

Trained with opsin on the source `{data}`; `config.json` holds every setting of the run under `training`, the sub-words
of the tokenizer and the preprocessing.

| measured | value |
| --- | --- |
{scores}

Recall is the share of queries whose right answer is among the first 1, 5 or 10, averaged over texts that look for
images and images that look for texts, among all images of the split (of one drawing style at a time, where there are
styles). `train_…` is on the training images, `val_…` and `test_…` on images held out from training, `other_style_…` on
drawings in a style that was held out. The model knows only what its training captions say: expect little of other
pictures and words.

    opsin classify IMAGES --labels "one thing,another thing" --model THIS_DIRECTORY
"""
