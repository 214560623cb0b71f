"""The README.md inside the directory of a CLIP model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsin import model_cards
from opsin.model_cards import inline_code


def model_card(metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model was trained on and what was measured."""
    return model_cards.model_card(
        title="Dual encoder of images and texts",
        tags=["clip", "image-text-retrieval", "zero-shot-image-classification"],
        description=f"""
Trained with opsin on the source {inline_code(str(training.get("data", "unknown data")))}; `config.json` holds every
setting of the run under `training`, the sub-words of the tokenizer and the preprocessing.
""",
        metrics=metrics,
        notes="""
Recall is the share of queries whose right answer is among the first 1, 5 or 10, averaged over texts that look for
images and images that look for texts, among all images of the split (of one drawing style at a time, where there are
styles). `train_…` is on the training images, `val_…` and `test_…` on images held out from training, `other_style_…` on
drawings in a style that was held out. The model knows only what its training captions say: expect little of other
images and words.
""",
        command='opsin classify IMAGES --labels "one thing,another thing" --model THIS_DIRECTORY',
    )
