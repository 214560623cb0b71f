"""Caption metrics against published implementations, to 1e-6."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu
from nltk.translate.bleu_score import sentence_bleu as nltk_sentence_bleu

from opsin.captioning.metrics import caption_metrics, cider_d, corpus_bleu, rouge_l, sentence_bleu
from opsin.captioning.vocabulary import tokenise
from opsin.errors import DataError

Words = list[str]


@pytest.fixture(scope="module")
def words(captions: list[dict]) -> tuple[list[Words], list[list[Words]]]:
    candidates = [tokenise(image["candidate"]) for image in captions]
    return candidates, [[tokenise(text) for text in image["references"]] for image in captions]


@pytest.fixture(scope="module")
def coco_scores() -> dict[str, list[float]]:
    """What the COCO evaluation's Python code says of the fixture; `coco_scores.md` tells how the numbers were made."""
    return json.loads((Path(__file__).parent / "coco_scores.json").read_text(encoding="utf-8"))


def cider_d_by_its_formula(candidates: list[Words], references: list[list[Words]]) -> list[float]:
    """CIDEr-D as section 4 of the paper writes it down: for each order, full vectors over all runs of words that
    occur; with lengths counted in pairs of words, as the authors' code does."""

    def runs(words: Words, order: int) -> list[tuple[str, ...]]:
        return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]

    scores = np.zeros((4, len(candidates)))
    for order in range(1, 5):
        said_of = [{run for text in texts for run in runs(text, order)} for texts in references]
        known = sorted(set().union(*said_of, *(runs(words, order) for words in candidates)))
        weight = np.array([math.log(len(references) / max(1, sum(run in said for said in said_of))) for run in known])

        def vector(words: Words, order: int = order, known: list = known, weight: np.ndarray = weight) -> np.ndarray:
            return np.array([runs(words, order).count(run) for run in known]) * weight

        for row, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
            own = vector(candidate)
            for text in texts:
                other = vector(text)
                gap = max(len(candidate) - 1, 0) - max(len(text) - 1, 0)
                norms = np.linalg.norm(own) * np.linalg.norm(other)
                if norms > 0:
                    cosine = np.minimum(own, other) @ other / norms
                    scores[order - 1, row] += 10 * cosine * math.exp(-(gap**2) / (2 * 6**2)) / len(texts)
    return scores.mean(axis=0).tolist()


def longest_common_subsequence(first: Words, second: Words) -> int:
    """By trying all subsequences, the longest first."""
    for length in range(min(len(first), len(second)), 0, -1):
        ordered = set(itertools.combinations(first, length))
        if any(choice in ordered for choice in itertools.combinations(second, length)):
            return length
    return 0


def test_fixture_has_what_the_metrics_differ_in(words: tuple[list[Words], list[list[Words]]]) -> None:
    candidates, references = words
    assert len(candidates) == 30
    assert {len(texts) for texts in references} == {3, 4, 5}
    assert min(map(len, candidates)) == 0
    assert max(map(len, candidates)) > 15


def long_enough(words: tuple[list[Words], list[list[Words]]]) -> tuple[list[Words], list[list[Words]]]:
    """Without captions of fewer than four words, for which nltk counts runs of words that are not there."""
    rows = [row for row, caption in enumerate(words[0]) if len(caption) >= 4]
    return [words[0][row] for row in rows], [words[1][row] for row in rows]


@pytest.mark.parametrize("longest", [100, 5])
def test_corpus_bleu_equals_nltk(words: tuple[list[Words], list[list[Words]]], longest: int) -> None:
    candidates, references = long_enough(words)
    candidates = [caption[:longest] for caption in candidates]
    expected = [nltk_corpus_bleu(references, candidates, weights=(1 / order,) * order) for order in range(1, 5)]
    np.testing.assert_allclose(corpus_bleu(candidates, references), expected, rtol=1e-9)


def test_corpus_bleu_equals_the_coco_evaluation(
    words: tuple[list[Words], list[list[Words]]], coco_scores: dict[str, list[float]]
) -> None:
    np.testing.assert_allclose(corpus_bleu(*words), coco_scores["bleu"], atol=1e-6)


def test_sentence_bleu_equals_nltk(words: tuple[list[Words], list[list[Words]]]) -> None:
    smoothing = SmoothingFunction().method2
    for candidate, texts in zip(*long_enough(words), strict=True):
        expected = nltk_sentence_bleu(texts, candidate, smoothing_function=smoothing)
        assert math.isclose(sentence_bleu(candidate, texts), expected, rel_tol=1e-9)
    assert sentence_bleu([], [["a"]]) == 0.0
    assert sentence_bleu(["b"], [["a"]]) == 0.0


def test_rouge_l_equals_the_coco_evaluation(
    words: tuple[list[Words], list[list[Words]]], coco_scores: dict[str, list[float]]
) -> None:
    scores = [rouge_l(candidate, texts) for candidate, texts in zip(*words, strict=True)]
    np.testing.assert_allclose(scores, coco_scores["rouge_l"], atol=1e-9)


def test_rouge_l_equals_its_formula(words: tuple[list[Words], list[list[Words]]]) -> None:
    for candidate, texts in zip(*words, strict=True):
        own, others = candidate[:9], [text[:9] for text in texts]
        common = [longest_common_subsequence(own, text) for text in others]
        precision = max(common) / max(len(own), 1)
        recall = max(length / len(text) for length, text in zip(common, others, strict=True))
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0.0
        assert rouge_l(own, others) == pytest.approx(expected, abs=1e-12)
    assert rouge_l(["a", "b"], [[], ["b"]]) == pytest.approx((1 + 1.44) * 0.5 / (1 + 1.44 * 0.5))


def test_cider_d_equals_the_authors_code(
    words: tuple[list[Words], list[list[Words]]], coco_scores: dict[str, list[float]]
) -> None:
    scores = cider_d(*words)
    np.testing.assert_allclose(scores, coco_scores["cider_d"], atol=1e-9)
    assert scores.max() > 2
    assert scores[[row for row, caption in enumerate(words[0]) if not caption]] == [0.0]


def test_cider_d_equals_its_formula(words: tuple[list[Words], list[list[Words]]]) -> None:
    np.testing.assert_allclose(cider_d(*words), cider_d_by_its_formula(*words), atol=1e-9)


def test_metrics_of_the_fixture(captions: list[dict], coco_scores: dict[str, list[float]]) -> None:
    metrics = caption_metrics([image["candidate"] for image in captions], [image["references"] for image in captions])
    bleu = [metrics.bleu1, metrics.bleu2, metrics.bleu3, metrics.bleu4]
    assert bleu == pytest.approx(coco_scores["bleu"], abs=1e-6)
    assert metrics.rouge_l == pytest.approx(np.mean(coco_scores["rouge_l"]), abs=1e-6)
    assert metrics.cider_d == pytest.approx(np.mean(coco_scores["cider_d"]), abs=1e-6)
    assert metrics.count == len(metrics.per_image) == 30
    assert metrics.distinct_ratio == 1.0
    assert metrics.exact_match == 0.0
    assert not metrics.collapsed
    worst = min(range(30), key=lambda row: metrics.per_image[row].rouge_l)
    assert captions[worst]["candidate"] in ("", "dog")


def test_copied_references_score_highest(captions: list[dict]) -> None:
    """One reference an image, without repeated words that all images share: the top of every scale."""
    texts = [image["references"][0] for image in captions]
    metrics = caption_metrics(texts, [[text] for text in texts])
    scores = [metrics.bleu1, metrics.bleu2, metrics.bleu3, metrics.bleu4, metrics.rouge_l, metrics.cider_d / 10]
    assert scores == pytest.approx([1.0] * 6)
    assert all(score.bleu4 == pytest.approx(1.0) for score in metrics.per_image)


def test_punctuation_and_case_do_not_count() -> None:
    metrics = caption_metrics(["A DOG, a cat!", "bird"], [["a dog", "a dog a cat"], ["a bird"]])
    assert metrics.per_image[0].bleu4 == pytest.approx(1.0)
    assert metrics.exact_match == 0.5


def test_other_scripts_and_emoji_are_scored() -> None:
    metrics = caption_metrics(["一只黑狗", "🐶 und 🐱", "x"], [["一只黑狗在跑"], ["🐶 und 🐱"], ["y"]])
    assert metrics.per_image[1].cider_d > 5
    assert metrics.per_image[0].rouge_l > 0.7
    assert metrics.per_image[2].rouge_l == 0.0


def test_collapse_is_noticed(captions: list[dict]) -> None:
    references = [image["references"] for image in captions]
    same = caption_metrics(["a man on a street"] * 30, references)
    assert same.collapsed
    assert same.distinct_ratio == pytest.approx(1 / 30)
    assert not caption_metrics(["a dog"], [["a dog"]]).collapsed


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 captions to score do not fit references for 1 image"),
        ([], [], "none of the 0 captions"),
        (["", "..."], [["a"], ["b"]], "none of the 2 captions"),
        (["a", "b"], [["a"], []], "1 image has no reference caption, the first is number 1"),
        (["a"], ["a"], "list of such lists"),
        (["a"], "a", "list of such lists"),
        ("a", [["a"]], "list of texts"),
        (["a", "b"], [["!"], ["b"]], "1 image has no reference caption, the first is number 0"),
    ],
)
def test_scores_that_would_mean_nothing_are_refused(
    candidates: list[str], references: list[list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        caption_metrics(candidates, references)
