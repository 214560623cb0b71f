"""What a captioner has to beat: one caption for all images, the most typical of the training captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from opsin.captioning.metrics import MAX_ORDER, Ngrams, Words, cider_d, ngram_weights, ngrams_of
from opsin.captioning.vocabulary import tokenise
from opsin.training.baselines import BaselineComparison, compare_paired

MOST_CANDIDATES = 20_000
ADVICE = (
    "train longer (--max-minutes) or on more captioned images, or let a pretrained encoder look at them "
    "(--frozen-encoder imagenet)"
)


def compare_captions(
    scores: Sequence[float], references: Sequence[Sequence[str]], training_captions: Iterable[str]
) -> tuple[BaselineComparison, ...]:
    """CIDEr-D of each image's caption beside that of the most typical training caption, given to every image.

    Most typical is the one with the highest mean cosine of CIDEr to all training captions, among at most
    `MOST_CANDIDATES` different ones, which are spread over all: the references of the evaluated images have no say.
    Empty for fewer than two images, of which CIDEr-D says nothing, and without training captions.
    """
    candidates = [words for words in map(tokenise, dict.fromkeys(training_captions)) if words]
    if len(scores) < 2 or not candidates:
        return ()
    candidates = candidates[:: -(-len(candidates) // MOST_CANDIDATES)]
    people = [[tokenise(text) for text in texts] for texts in references]
    best = candidates[int(np.argmax(_fits(candidates, [[words] for words in candidates])))]
    values = cider_d([best] * len(people), people)
    name = f"the most typical training caption for every image ({' '.join(best)!r})"
    return compare_paired("CIDEr-D", np.asarray(scores, dtype=np.float64), name, values, ADVICE)


def _fits(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """The mean cosine of each candidate's weighted n-grams to those of all references, float64 (C,).

    A mean of cosines is the cosine to the mean of normalized vectors, so that each candidate is looked at once.
    """
    weights, unseen = ngram_weights(references)
    centre: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for texts in references:
        for text in texts:
            vector = _normalized(ngrams_of(text), weights, unseen)
            for ngram, value in vector.items():
                centre[ngram] += value / len(texts)
    fits = [
        sum(value * centre.get(ngram, 0.0) for ngram, value in _normalized(ngrams_of(words), weights, unseen).items())
        for words in candidates
    ]
    return np.array(fits)


def _normalized(
    ngrams: Ngrams, weights: Mapping[tuple[str, ...], float], unseen: float
) -> dict[tuple[str, ...], float]:
    """Weighted counts of n-grams, of length one for each order."""
    squares = np.zeros(MAX_ORDER)
    vector = {ngram: count * weights.get(ngram, unseen) for ngram, count in ngrams.items()}
    for ngram, value in vector.items():
        squares[len(ngram) - 1] += value**2
    norms = np.sqrt(squares)
    norms[norms == 0] = 1.0
    return {ngram: value / float(norms[len(ngram) - 1]) for ngram, value in vector.items()}
