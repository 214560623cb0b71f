"""The README.md inside a classifier's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(class_names: Sequence[str], metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model tells apart, what it was trained on, and what was measured."""
    data = training.get("data", "unknown data")
    shown = ", ".join(class_names[:20]) + (f" and {len(class_names) - 20} more" if len(class_names) > 20 else "")
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()) or "| none measured | |"
    return f"""---
library_name: opsin
tags: [image-classification]
---

# Vision Transformer classifier

Tells apart {len(class_names)} classes: {shown}.

Trained with opsin on the source `{data}`; `config.json` holds every setting of the run under `training`, the class
names and the preprocessing.

| measured | value |
| --- | --- |
{scores}

`val_…` is on images held out from training, `test_…` on the source's test split. The model knows nothing but images
of that source: expect worse on pictures that differ from them.

    opsin classify IMAGES --model THIS_DIRECTORY
"""
