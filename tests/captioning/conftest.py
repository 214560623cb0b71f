"""Small captioning models whose captions differ and end, and real-looking captions to score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from opsin.captioning.model import CaptioningTransformer

SPECIAL = ("<NULL>", "<START>", "<END>", "<UNK>")


def word_table(words: int) -> dict[str, int]:
    """The four special words and so many others."""
    return {word: index for index, word in enumerate([*SPECIAL, *(f"w{number}" for number in range(words))])}


def make_model(words: int = 12, seed: int = 0, **options: object) -> CaptioningTransformer:
    """A model with random weights, large enough for clear preferences and small enough for hundreds of runs."""
    torch.manual_seed(seed)
    settings = {"num_heads": 2, "num_layers": 2, "max_length": 30, "dim_feedforward": 32, **options}
    model = CaptioningTransformer(word_table(words), 6, 16, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0 if name == "output.weight" else 15.0)
        if model.output is not None:
            model.output.bias[2] += 2.0  # most captions end, each at its own time
    return model.eval()


@pytest.fixture(scope="session")
def captions() -> list[dict]:
    """Images with 3 to 5 reference captions and one caption as a model might write it."""
    return json.loads((Path(__file__).parent / "captions.json").read_text(encoding="utf-8"))
