"""Collections in which it is known what matches: queries with an answer are told from those without."""

from __future__ import annotations

import numpy as np
import pytest

from opsin.search.confidence import BACKGROUND_TEXTS, ChanceLevel, chance_level, standout, student_quantile
from opsin.search.query import Term

WIDTH = 48
TRIALS = 60
TEXT, IMAGE = Term("", 1.0, True), Term("", 1.0, False)


def normalised(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Images and texts of concepts, as CLIP sees them: all images share a direction, all texts another one, the cosine
    of a matching pair is about 0.6, and there is noise."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.common_image, self.common_text = 0.5 * self.noise(2)
        self.background = self.texts(self.noise(len(BACKGROUND_TEXTS)))

    def noise(self, count: int) -> np.ndarray:
        return normalised(self.random.standard_normal((count, WIDTH)))

    def images(self, concepts: np.ndarray) -> np.ndarray:
        return normalised(concepts + self.common_image + 0.4 * self.noise(len(concepts)))

    def texts(self, concepts: np.ndarray) -> np.ndarray:
        return normalised(concepts + self.common_text + 0.4 * self.noise(len(concepts)))

    def is_confident(self, query: np.ndarray, images: np.ndarray, term: Term = TEXT) -> bool:
        chance = chance_level([term], self.background, images)
        return standout(float((images @ query).max()), chance, len(images)) >= 1


@pytest.mark.parametrize("size", [1, 10, 300, 3000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_answers_are_told_from_the_least_bad_image(size: int, share: float) -> None:
    """`share` of the images match the query besides the first one. With nothing to find, a quarter of the queries may
    be called confident on average: with 60 of them, 26 are four standard deviations more."""
    found, false_alarms = 0, 0
    for seed in range(TRIALS):
        world = World(1000 * size + seed)
        concept = world.noise(1)
        images = world.images(world.noise(size))
        false_alarms += world.is_confident(world.texts(concept)[0], images)
        matches = max(1, int(share * size))
        images[:matches] = world.images(np.repeat(concept, matches, axis=0))
        found += world.is_confident(world.texts(concept)[0], images)
    assert found >= 0.9 * TRIALS
    assert false_alarms <= 26


def test_queries_by_image() -> None:
    found, false_alarms = 0, 0
    for seed in range(TRIALS):
        world = World(seed)
        concepts = world.noise(200)
        images = world.images(concepts)
        found += world.is_confident(world.images(concepts[7:8])[0], images, IMAGE)
        false_alarms += world.is_confident(world.images(world.noise(1))[0], images, IMAGE)
    assert found >= 0.9 * TRIALS
    assert false_alarms <= 26


def test_a_weighted_sum_is_compared_with_such_sums() -> None:
    world = World(0)
    images = world.images(world.noise(40))
    terms = [Term("", 2.0, True), Term("", 0.5, False), Term("", -1.0, True)]
    cosines = []
    for row in range(40):
        query = 2 * world.background[row * len(world.background) // 40] + 0.5 * images[(row + 1) % 40]
        query -= world.background[(row * len(world.background) // 40 + 2) % len(world.background)]
        cosines += [float(image @ normalised(query)) for number, image in enumerate(images) if number != (row + 1) % 40]
    chance = chance_level(terms, world.background, images)
    assert chance is not None
    assert (chance.mean, chance.spread) == pytest.approx((np.mean(cosines), np.std(cosines)), abs=1e-5)


@pytest.mark.parametrize("dimensions", [12, 30, 100])
def test_the_limit_is_the_tail_of_random_directions(dimensions: int) -> None:
    """Among 4,000 random directions a quarter of one reaches it, which 40 independent trials show."""
    random = np.random.default_rng(dimensions)
    limit = ChanceLevel(0.0, dimensions**-0.5).limit(4000)
    directions = random.standard_normal((160_000, dimensions))
    reached = int((directions[:, 0] / np.linalg.norm(directions, axis=1) >= limit).sum())
    assert 1 <= reached <= 24  # 10 expected


def test_too_little_to_compare_with() -> None:
    world = World(0)
    none = world.background[:0]
    assert standout(1.0, chance_level([IMAGE], none, world.noise(2)), 2) == 0
    assert standout(1.0, chance_level([TEXT], none, world.noise(50)), 50) == 0
    assert standout(1.0, chance_level([TEXT], world.background, none), 0) == 0


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"), [(0.975, 10, 2.228), (0.995, 20, 2.845), (0.9995, 60, 3.460)]
)
def test_quantiles_are_those_of_printed_tables_of_students_t(
    probability: float, freedom: float, expected: float
) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(expected, abs=5e-3)
