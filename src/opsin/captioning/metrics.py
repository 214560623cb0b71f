"""How close captions are to people's captions of the same images.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) as the COCO evaluation computes it, and CIDEr-D (Vedantam et al. 2015).
Captions are cut into words by `opsin.captioning.vocabulary.tokenise`, not by the COCO evaluation's Java tokeniser, so
scores of whole texts are not comparable to that one's. On the same words, the numbers are the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opsin.captioning.diversity import Diversity, Words, collapse, diversity
from opsin.captioning.vocabulary import tokenise
from opsin.counts import agree, none_of, number_of
from opsin.errors import DataError

MAX_ORDER = 4
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0

Ngrams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class CaptionScore:
    """Scores of one image's caption.

    `bleu4` is in [0, 1] and smoothed, so that a caption without a common run of four words is not simply 0: its mean is
    not the corpus BLEU-4. `rouge_l` is in [0, 1], `cider_d` in [0, 10].
    """

    bleu4: float
    rouge_l: float
    cider_d: float


@dataclass(frozen=True)
class CaptionMetrics:
    """Scores of `count` captions: corpus BLEU of 1 to 4 words and mean ROUGE-L in [0, 1], mean CIDEr-D in [0, 10].

    `exact_match` is the share of captions that are, word by word, one of their references. `diversity` is that of the
    captions, `reference_diversity` that of each image's first reference. `per_image` is in the order of the images.
    """

    count: int
    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    rouge_l: float
    cider_d: float
    exact_match: float
    diversity: Diversity
    reference_diversity: Diversity
    per_image: tuple[CaptionScore, ...]

    @property
    def distinct_ratio(self) -> float:
        """The number of different captions divided by that of captions."""
        return self.diversity.distinct_captions / self.count

    @property
    def collapse(self) -> str | None:
        """Why the captions count as collapsed: they repeat themselves, or differ much less than the references do; None
        where they do not."""
        return collapse(self.diversity, self.reference_diversity)

    @property
    def collapsed(self) -> bool:
        """Whether the captions repeat themselves, or differ much less than the references do."""
        return self.collapse is not None


def caption_metrics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionMetrics:
    """Score one caption an image against one or more captions by people.

    CIDEr-D weighs words by how many of these images they are said of, so it depends on the set, and is 0 for a single
    image. Raises DataError when there is no caption at all, when the numbers of images differ, when an image has no
    reference, or when a single text stands where a list of them is expected.
    """
    if isinstance(candidates, str) or any(isinstance(texts, str) for texts in (references, *references)):
        raise DataError("the captions to score are a list of texts, and the references a list of such lists")
    words = [tokenise(candidate) for candidate in candidates]
    reference_words = [[tokenise(text) for text in texts] for texts in references]
    _refuse_unusable(words, reference_words)
    bleu = corpus_bleu(words, reference_words)
    rouge = [rouge_l(*pair) for pair in zip(words, reference_words, strict=True)]
    cider = cider_d(words, reference_words)
    sentence = [sentence_bleu(*pair) for pair in zip(words, reference_words, strict=True)]
    return CaptionMetrics(
        count=len(words),
        bleu1=bleu[0],
        bleu2=bleu[1],
        bleu3=bleu[2],
        bleu4=bleu[3],
        rouge_l=float(np.mean(rouge)),
        cider_d=float(np.mean(cider)),
        exact_match=float(np.mean([own in texts for own, texts in zip(words, reference_words, strict=True)])),
        diversity=diversity(words),
        reference_diversity=diversity([next(filter(None, texts)) for texts in reference_words]),
        per_image=tuple(CaptionScore(*scores) for scores in zip(sentence, rouge, cider.tolist(), strict=True)),
    )


def is_exact_match(candidate: str, references: Sequence[str]) -> bool:
    """Whether a caption is, word by word, one of its references."""
    return tokenise(candidate) in [tokenise(text) for text in references]


def corpus_bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of all captions together, unsmoothed: 0 where no run of so many words is right anywhere."""
    total = np.sum(
        [_bleu_counts(words, texts) for words, texts in zip(candidates, references, strict=True)],
        axis=0,
    )
    return _bleu(total[0], total[1], *total[2, :2])


def sentence_bleu(candidate: Words, references: Sequence[Words]) -> float:
    """BLEU-4 of one caption, with one added to matches and counts of two words and more (Lin and Och 2004)."""
    counts = _bleu_counts(candidate, references)
    matches, totals = counts[0].astype(float), counts[1].astype(float)
    matches[1:] += 1
    totals[1:] += 1
    return _bleu(matches, totals, *counts[2, :2])[-1]


def rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    """F-measure of the longest common subsequence, recall weighing 1.2 ** 2 as much as precision.

    Precision and recall are each the best over the references, as in the COCO evaluation.
    """
    if not candidate:
        return 0.0
    common = [(_longest_common_subsequence(candidate, text), len(text)) for text in references]
    precision = max(length for length, _ in common) / len(candidate)
    recall = max(length / max(words, 1) for length, words in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """CIDEr-D of each caption, float64 (N,) in [0, 10], with n-gram weights from these references."""
    reference_ngrams = [[ngrams_of(text) for text in texts] for texts in references]
    weights, unseen = ngram_weights(references)

    def weighted(ngrams: Ngrams) -> dict[tuple[str, ...], float]:
        return {ngram: count * weights.get(ngram, unseen) for ngram, count in ngrams.items()}

    scores = np.zeros(len(candidates))
    for row, (candidate, texts) in enumerate(zip(candidates, reference_ngrams, strict=True)):
        vector = weighted(ngrams_of(candidate))
        for text, words in zip(texts, references[row], strict=True):
            # Lengths are counted in pairs of words, as in the authors' own code.
            gap = max(len(candidate) - 1, 0) - max(len(words) - 1, 0)
            penalty = math.exp(-(gap**2) / (2 * CIDER_SIGMA**2))
            scores[row] += penalty * _clipped_cosine(vector, weighted(text)).mean()
        scores[row] *= 10 / len(texts)
    return scores


def ngram_weights(references: Sequence[Sequence[Words]]) -> tuple[dict[tuple[str, ...], float], float]:
    """CIDEr's weight of each n-gram of these references, by how many images it is said of, and that of any other."""
    images_with: Counter[tuple[str, ...]] = Counter()
    for texts in references:
        images_with.update(set().union(*map(ngrams_of, texts)))
    unseen = math.log(len(references)) if len(references) else 0.0
    return {ngram: unseen - math.log(count) for ngram, count in images_with.items()}, unseen


def _refuse_unusable(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if len(candidates) != len(references):
        raise DataError(
            f"{number_of(len(candidates), 'caption')} to score do not fit "
            f"references for {number_of(len(references), 'image')}"
        )
    if not any(candidates):
        raise DataError(f"{none_of(len(candidates), 'caption')} to score has a word in it")
    if wordless := [index for index, texts in enumerate(references) if not any(texts)]:
        raise DataError(
            f"{number_of(len(wordless), 'image')} {agree(len(wordless), 'has', 'have')} no reference "
            f"caption, the first is number {wordless[0]}"
        )


def ngrams_of(words: Words) -> Ngrams:
    """How often each run of 1 to 4 words occurs."""
    return Counter(
        tuple(words[start : start + size]) for size in range(1, MAX_ORDER + 1) for start in range(len(words) - size + 1)
    )


def _bleu_counts(candidate: Words, references: Sequence[Words]) -> np.ndarray:
    """int64 (3, 4): matches by order, runs by order, and (caption length, closest reference length, 0, 0)."""
    ngrams = ngrams_of(candidate)
    most = Counter[tuple[str, ...]]()
    for words in references:
        most |= ngrams_of(words)
    matches = [0] * MAX_ORDER
    for ngram, count in (ngrams & most).items():
        matches[len(ngram) - 1] += count
    runs = [max(len(candidate) - size + 1, 0) for size in range(1, MAX_ORDER + 1)]
    closest = min((len(words) for words in references), key=lambda length: (abs(length - len(candidate)), length))
    return np.array([matches, runs, [len(candidate), closest, 0, 0]])


def _bleu(matches: np.ndarray, runs: np.ndarray, length: int, reference_length: int) -> tuple[float, ...]:
    """Geometric mean of the precisions up to each order, times the brevity penalty."""
    if length == 0:
        return (0.0,) * MAX_ORDER
    brevity = min(1.0, math.exp(1 - reference_length / length))
    scores, logs = [], 0.0
    for order in range(MAX_ORDER):
        logs += math.log(matches[order] / runs[order]) if matches[order] > 0 else -math.inf
        scores.append(brevity * math.exp(logs / (order + 1)))
    return tuple(scores)


def _longest_common_subsequence(first: Words, second: Words) -> int:
    previous = [0] * (len(second) + 1)
    for word in first:
        current = [0]
        for place, other in enumerate(second):
            current.append(previous[place] + 1 if word == other else max(previous[place + 1], current[place]))
        previous = current
    return previous[-1]


def _clipped_cosine(first: dict[tuple[str, ...], float], second: dict[tuple[str, ...], float]) -> np.ndarray:
    """float64 (4,), one an order: the cosine of two vectors, the entries of the first clipped to the second's."""
    products, first_squares, second_squares = np.zeros((3, MAX_ORDER))
    for ngram, weight in first.items():
        first_squares[len(ngram) - 1] += weight**2
        products[len(ngram) - 1] += min(weight, second.get(ngram, 0.0)) * second.get(ngram, 0.0)
    for ngram, weight in second.items():
        second_squares[len(ngram) - 1] += weight**2
    norms = np.sqrt(first_squares * second_squares)
    return np.divide(products, norms, out=np.zeros(MAX_ORDER), where=norms > 0)
