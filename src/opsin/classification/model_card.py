"""The README.md inside a classifier's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opsin import model_cards
from opsin.model_cards import escape_markdown, inline_code

NAMES_SHOWN = 20


def model_card(class_names: Sequence[str], metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model tells apart, what it was trained on, and what was measured."""
    names = ", ".join(map(escape_markdown, class_names[:NAMES_SHOWN]))
    more = f" and {len(class_names) - NAMES_SHOWN} more" if len(class_names) > NAMES_SHOWN else ""
    return model_cards.model_card(
        title="Vision Transformer classifier",
        tags=["image-classification"],
        description=f"""
Tells apart {len(class_names)} classes: {names}{more}.

Trained with opsin on the source {inline_code(str(training.get("data", "unknown data")))}; `config.json` holds every
setting of the run under `training`, the class names and the preprocessing.
""",
        metrics=metrics,
        notes="""
`val_…` is on images held out from training, `test_…` on the source's test split. The model knows nothing but images
of that source: expect worse on images that differ from them.
""",
        command="opsin classify IMAGES --model THIS_DIRECTORY",
    )
