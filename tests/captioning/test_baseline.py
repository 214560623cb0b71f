"""The one caption that a captioner has to beat, against trying every one."""

from __future__ import annotations

import numpy as np
import pytest

from opsin.captioning import baseline
from opsin.captioning.baseline import compare_captions
from opsin.captioning.metrics import caption_metrics, cider_d
from opsin.captioning.vocabulary import tokenise

ANIMALS = ["dog", "cat", "horse", "bird"]
REFERENCES = [
    [f"a {animal} on the grass", f"one {animal} outside"]
    for animal in [*ANIMALS, "dog", "dog", "dog", "cat", "cat", "horse"]
]
TRAINING = [f"a {animal} on the grass" for animal in ANIMALS] + ["nothing to see", "a boat at sea", "a dog outside"]


def test_the_baseline_is_the_most_typical_training_caption() -> None:
    """By CIDEr-D to all training captions, each the only reference of an image; what is evaluated has no say."""
    people = [[tokenise(text)] for text in TRAINING]
    means = {text: cider_d([tokenise(text)] * len(people), people).mean() for text in TRAINING}
    best = max(means, key=lambda text: means[text])
    for references in (REFERENCES, [["nothing to see"]] * len(REFERENCES)):
        scores = [score.cider_d for score in caption_metrics([best] * len(references), references).per_image]
        (comparison,) = compare_captions(scores, references, TRAINING)
        assert repr(best) in comparison.baseline
        assert comparison.value == pytest.approx(np.mean(scores))
        assert not comparison.is_better  # the same caption for all images is no better than itself
    assert "--frozen-encoder" in comparison.sentence


def test_captions_that_tell_images_apart_are_better() -> None:
    own = [texts[0] for texts in REFERENCES]
    scores = [score.cider_d for score in caption_metrics(own, REFERENCES).per_image]
    (comparison,) = compare_captions(scores, REFERENCES, TRAINING)
    assert comparison.is_better
    assert comparison.score == pytest.approx(np.mean(scores))


def test_what_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare_captions([1.0], REFERENCES[:1], TRAINING) == ()
    assert compare_captions([1.0] * 10, REFERENCES, []) == ()
    assert compare_captions([1.0] * 10, REFERENCES, ["...", "!"]) == ()
    monkeypatch.setattr(baseline, "MOST_CANDIDATES", 2)
    (comparison,) = compare_captions([1.0] * 10, REFERENCES, TRAINING)
    assert comparison.count == 10
