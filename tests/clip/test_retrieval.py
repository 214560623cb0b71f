"""Retrieval scores against a slow loop and against what chance gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opsin.clip import retrieval
from opsin.clip.evaluation import compare_with_chance
from opsin.clip.retrieval import measure_pairs, measure_retrieval


def random_features(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)))


def test_against_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS_AT_A_TIME", 7)  # several parts
    groups = np.random.default_rng(0).integers(0, 20, 40)
    groups[groups == 3] = 4  # a text without any image is no query, but can be found
    images, texts = random_features(40, 0), random_features(20, 1)
    pair = measure_retrieval(images, texts, groups)

    ranks = []
    for text in sorted(set(groups.tolist())):
        order = sorted(range(40), key=lambda image: -float(texts[text] @ images[image]))
        ranks.append(1 + min(place for place, image in enumerate(order) if groups[image] == text))
    wrong_before = [
        sum(
            groups[other] != text
            and texts[text] @ images[other] > max(texts[text] @ images[own] for own in np.flatnonzero(groups == text))
            for other in range(40)
        )
        for text in sorted(set(groups.tolist()))
    ]
    assert ranks == [count + 1 for count in wrong_before]  # two ways to say it
    assert pair.text_to_image.queries == len(ranks)
    assert pair.text_to_image.recall == {k: float(np.mean(np.array(ranks) <= k)) for k in (1, 5, 10)}
    assert pair.text_to_image.median_rank == np.median(ranks)

    ranks = []
    for image in range(40):
        order = sorted(range(20), key=lambda text: -float(texts[text] @ images[image]))
        ranks.append(1 + order.index(groups[image]))
    assert (pair.image_to_text.queries, pair.image_to_text.candidates) == (40, 20)
    assert pair.image_to_text.recall == {k: float(np.mean(np.array(ranks) <= k)) for k in (1, 5, 10)}
    assert pair.image_to_text.median_rank == np.median(ranks)


def test_perfect_features_and_collapsed_ones() -> None:
    perfect = torch.eye(30)
    pair = measure_retrieval(perfect, perfect, np.arange(30))
    assert pair.mean_recall(1) == 1.0 and pair.text_to_image.median_rank == 1.0
    collapsed = torch.ones(30, 4) / 2
    pair = measure_retrieval(collapsed, collapsed, np.arange(30))
    assert pair.mean_recall(10) == 0.0 and pair.image_to_text.median_rank == 30.0
    pair = measure_retrieval(perfect * torch.nan, perfect, np.arange(30))
    assert pair.mean_recall(10) == 0.0 and pair.text_to_image.median_rank == 30.0


def test_chance_is_what_random_features_reach() -> None:
    groups = np.repeat(np.arange(50), [1, 3] * 25)
    pairs = [
        measure_retrieval(random_features(100, 2 * seed), random_features(50, 2 * seed + 1), groups)
        for seed in range(60)
    ]
    for direction in ("text_to_image", "image_to_text"):
        first = getattr(pairs[0], direction)
        for k in (1, 5, 10):
            reached = np.mean([getattr(pair, direction).recall[k] for pair in pairs])
            assert reached == pytest.approx(first.chance[k], abs=0.02)
    assert pairs[0].image_to_text.chance[10] == pytest.approx(0.2)
    few = measure_retrieval(random_features(4, 0), random_features(4, 1), np.arange(4))
    assert few.text_to_image.chance[10] == few.text_to_image.recall[10] == 1.0


def test_several_texts_an_image_against_a_slow_loop() -> None:
    generator = np.random.default_rng(3)
    pairs = sorted({(image, int(text)) for image in range(30) for text in generator.integers(0, 45, 1 + image % 4)})
    own, texts = np.array(pairs).T
    image_features, text_features = random_features(30, 0), random_features(45, 1)
    measured = measure_pairs(image_features, text_features, own, texts)

    def ranks(queries: torch.Tensor, candidates: torch.Tensor, right: dict[int, set[int]]) -> list[int]:
        found = []
        for query in sorted(right):
            order = (candidates @ queries[query]).argsort(descending=True).tolist()
            before = order[: min(order.index(answer) for answer in right[query])]
            found.append(1 + len(before))
        return found

    images_of: dict[int, set[int]] = {}
    texts_of: dict[int, set[int]] = {}
    for image, text in pairs:
        images_of.setdefault(text, set()).add(image)
        texts_of.setdefault(image, set()).add(text)
    for scores, expected, right in (
        (measured.text_to_image, ranks(text_features, image_features, images_of), images_of),
        (measured.image_to_text, ranks(image_features, text_features, texts_of), texts_of),
    ):
        assert scores.queries == len(right)
        assert scores.recall == {k: float(np.mean(np.array(expected) <= k)) for k in (1, 5, 10)}
        assert scores.median_rank == np.median(expected)


def test_recall_is_compared_where_chance_leaves_room() -> None:
    features = random_features(12, 0)
    pair = measure_retrieval(features, features, np.arange(12))
    assert pair.telling_rank == 5  # ten of twelve are found by chance
    (comparison,) = compare_with_chance({"all": pair})
    assert (comparison.metric, comparison.value) == ("recall@5", pytest.approx(5 / 12))
    assert comparison.is_better and comparison.score == 1.0
    (guessing,) = compare_with_chance({"round": measure_retrieval(features, random_features(12, 5), np.arange(12))})
    assert not guessing.is_better and "of the style 'round'" in guessing.sentence
