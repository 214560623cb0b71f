"""Caption metrics against published implementations, to 1e-6."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu
from nltk.translate.bleu_score import sentence_bleu as nltk_sentence_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from opsin.captioning.metrics import caption_metrics, cider_d, corpus_bleu, rouge_l, sentence_bleu
from opsin.captioning.vocabulary import tokenise
from opsin.errors import DataError

Words = list[str]


@pytest.fixture(scope="module")
def words(captions: list[dict]) -> tuple[list[Words], list[list[Words]]]:
    candidates = [tokenise(image["candidate"]) for image in captions]
    return candidates, [[tokenise(text) for text in image["references"]] for image in captions]


def coco_layout(candidates: list[Words], references: list[list[Words]]) -> tuple[dict, dict]:
    """What pycocoevalcap takes: lists of texts, their words between blanks, by image."""
    truth = {row: [" ".join(text) for text in texts] for row, texts in enumerate(references)}
    return truth, {row: [" ".join(text)] for row, text in enumerate(candidates)}


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


def test_corpus_bleu_equals_the_coco_evaluation(words: tuple[list[Words], list[list[Words]]]) -> None:
    candidates, references = words
    expected, _ = Bleu(4).compute_score(*coco_layout(candidates, references), verbose=0)
    np.testing.assert_allclose(corpus_bleu(candidates, references), expected, atol=1e-6)


def test_sentence_bleu_equals_nltk(words: tuple[list[Words], list[list[Words]]]) -> None:
    smoothing = SmoothingFunction().method2
    for candidate, texts in zip(*long_enough(words), strict=True):
        expected = nltk_sentence_bleu(texts, candidate, smoothing_function=smoothing)
        assert math.isclose(sentence_bleu(candidate, texts), expected, rel_tol=1e-9)
    assert sentence_bleu([], [["a"]]) == 0.0
    assert sentence_bleu(["b"], [["a"]]) == 0.0


def test_rouge_l_equals_the_coco_evaluation(words: tuple[list[Words], list[list[Words]]]) -> None:
    candidates, references = words
    _, expected = Rouge().compute_score(*coco_layout(candidates, references))
    scores = [rouge_l(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    assert rouge_l(["a", "b"], [[], ["b"]]) == pytest.approx((1 + 1.44) * 0.5 / (1 + 1.44 * 0.5))


def test_cider_d_equals_the_authors_code(words: tuple[list[Words], list[list[Words]]]) -> None:
    candidates, references = words
    mean, expected = Cider().compute_score(*coco_layout(candidates, references))
    scores = cider_d(candidates, references)
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    assert scores.mean() == pytest.approx(mean, abs=1e-9)
    assert scores.max() > 2
    assert scores[[row for row, words in enumerate(candidates) if not words]] == [0.0]


def test_metrics_of_the_fixture(captions: list[dict], words: tuple[list[Words], list[list[Words]]]) -> None:
    metrics = caption_metrics([image["candidate"] for image in captions], [image["references"] for image in captions])
    layout = coco_layout(*words)
    bleu, _ = Bleu(4).compute_score(*layout, verbose=0)
    assert [metrics.bleu1, metrics.bleu2, metrics.bleu3, metrics.bleu4] == pytest.approx(bleu, abs=1e-6)
    assert metrics.rouge_l == pytest.approx(Rouge().compute_score(*layout)[0], abs=1e-6)
    assert metrics.cider_d == pytest.approx(Cider().compute_score(*layout)[0], abs=1e-6)
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
    assert not caption_metrics(["a man on a street"] * 29 + ["a dog"], references).collapsed
    assert not caption_metrics(["a dog"], [["a dog"]]).collapsed


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 captions to score and references for 1 images"),
        ([], [], "none of the 0 captions"),
        (["", "..."], [["a"], ["b"]], "none of the 2 captions"),
        (["a", "b"], [["a"], []], "1 images have no reference caption, the first is number 1"),
        (["a", "b"], [["!"], ["b"]], "1 images have no reference caption, the first is number 0"),
    ],
)
def test_scores_that_would_mean_nothing_are_refused(
    candidates: list[str], references: list[list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        caption_metrics(candidates, references)
