"""Collections in which it is known what matches: queries with an answer are told from those without."""

from __future__ import annotations

import numpy as np
import pytest

from opsin.clip.search.confidence import BACKGROUND_TEXTS, _limit, standout

WIDTH = 64


def normalised(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Images and texts of concepts, as CLIP sees them: all images share a direction, all texts another one, the cosine
    of a matching pair is low, and there is noise."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.common_image, self.common_text = self.noise(2)
        self.background = self.texts(self.noise(len(BACKGROUND_TEXTS)))

    def noise(self, count: int) -> np.ndarray:
        return normalised(self.random.standard_normal((count, WIDTH)))

    def images(self, concepts: np.ndarray) -> np.ndarray:
        return normalised(concepts + self.common_image + 0.5 * self.noise(len(concepts)))

    def texts(self, concepts: np.ndarray) -> np.ndarray:
        return normalised(concepts + self.common_text + 0.4 * self.noise(len(concepts)))

    def strength(self, query: np.ndarray, images: np.ndarray) -> float:
        best = int((images @ query).argmax())
        return standout(query, images[best], np.delete(images, best, axis=0), self.background, len(images))


@pytest.mark.parametrize("size", [1, 10, 300, 3000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_answers_are_told_from_the_least_bad_image(size: int, share: float) -> None:
    """`share` of the images match the query besides the first one."""
    found, false_alarms = 0, 0
    for seed in range(20):
        world = World(seed)
        concept = world.noise(1)
        images = world.images(world.noise(size))
        false_alarms += world.strength(world.texts(concept)[0], images) >= 1
        matches = max(1, int(share * size))
        images[:matches] = world.images(np.repeat(concept, matches, axis=0))
        found += world.strength(world.texts(concept)[0], images) >= 1
    assert found >= 18
    assert false_alarms <= 4


def test_a_query_by_image() -> None:
    world = World(0)
    images = world.images(world.noise(500))
    twin, stranger = normalised(images[7] + 0.3 * world.noise(1)[0]), world.images(world.noise(1))[0]
    for query, confident in ((twin, True), (stranger, False)):
        best = int((images @ query).argmax())
        assert (standout(query, images[best], np.delete(images, best, axis=0), None, 500) >= 1) == confident


def test_too_few_to_compare_with() -> None:
    world = World(0)
    images = world.noise(3)
    assert standout(images[0], images[0], images[1:], None, 3) == 0
    assert standout(images[0], images[0], images[:0], None, 1) == 0


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"), [(0.975, 10, 2.228), (0.995, 20, 2.845), (0.9995, 60, 3.460)]
)
def test_limits_are_those_of_printed_tables_of_students_t(probability: float, freedom: float, expected: float) -> None:
    assert _limit(probability, freedom) == pytest.approx(expected, abs=5e-3)
