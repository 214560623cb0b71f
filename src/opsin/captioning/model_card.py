"""The README.md inside a captioner's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsin import model_cards
from opsin.model_cards import inline_code


def model_card(num_words: int, metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the model was trained on, how many words it knows, and what was measured."""
    frozen = training.get("frozen_encoder")
    needs = f"\n\nImages reach it through the encoder {inline_code(str(frozen))}, which is not in this directory."
    return model_cards.model_card(
        title="Image captioner",
        tags=["image-to-text"],
        description=f"""
A transformer decoder that knows {num_words} words, trained with opsin on the source
{inline_code(str(training.get("data", "unknown data")))}; `config.json` holds every setting of the run under `training`,
the vocabulary and the preprocessing.{needs if frozen else ""}
""",
        metrics=metrics,
        notes="""
`val_…` is on images held out from training, with greedy decoding; `test_…` is on the test images, with the run's
number of beams, and `other_style_…` on drawings of training emoji in the style that was held out of training. BLEU,
ROUGE-L and exact match are in 0 to 1, CIDEr-D is in 0 to 10; texts are cut into words by opsin's own rules. The model
knows only what its training captions say: expect wrong captions for other images.
""",
        command="opsin caption IMAGES --model THIS_DIRECTORY",
    )
