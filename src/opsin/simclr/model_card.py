"""The README.md inside the directory of an encoder that was trained with SimCLR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsin import model_cards
from opsin.model_cards import inline_code

NAMES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "vit": "Vision Transformer"}


def model_card(encoder: str, metrics: Mapping[str, float], training: Mapping[str, Any]) -> str:
    """Markdown that says what the encoder was trained on and what was measured."""
    return model_cards.model_card(
        title=f"{NAMES[encoder]} that learned without labels",
        tags=["simclr", "self-supervised-learning", "image-feature-extraction"],
        description=f"""
Trained by SimCLR with opsin on the images of the source {inline_code(str(training.get("data", "unknown data")))};
`config.json` holds every setting of the run under `training`, and the preprocessing.
""",
        metrics=metrics,
        notes="""
`val_loss` is the contrastive loss of images held out from training, in batches of the size of training, or all at once
where there are fewer; a run that held out fewer than two has none. `val_knn_accuracy` takes labels.
`val_knn_accuracy` is the share of at most 1,000 of them whose class the 200 nearest of at most 5,000 training images
tell (temperature 0.5): it follows the training and is no test. For scores to compare use
`opsin evaluate THIS_DIRECTORY --protocol knn`.

The encoder gives features, not classes, and knows images like those of its source: expect worse on others.
""",
        command="opsin index IMAGES --out INDEX --model THIS_DIRECTORY",
    )
