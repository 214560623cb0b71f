"""Does the best hit answer the query, or is it only the least bad one?

A cosine by itself does not tell: what is high differs between models, kinds of query and collections. So the best
cosine is compared with those that queries about anything have with the images of this collection, matching or not.
They are of the same make-up as the query: for words they are the texts below, for an image other images of the
collection, for a weighted sum such a sum. Their mean and spread say what chance gives; for vectors whose cosines spread
by s around their mean, as those of random directions in 1 / s^2 dimensions do, the tail is that of Student's t
(of random directions, cos * sqrt(d - 1) / sqrt(1 - cos^2) has d - 1 degrees of freedom; Muirhead, Aspects of
Multivariate Statistical Theory, 1982, theorem 1.5.7). An answer is confident when by chance fewer than
`EXPECTED_BY_CHANCE` images of the collection would reach its cosine.

Measured with `emoji-clip` on 2026-11-24. Of the names whose emoji was the first hit, 34 to 43 % were confident among
1,898 emoji of one style and 29 % among both drawings of all; among 400 emoji 79 to 84 %, among 100 and fewer 96 to
100 %. Of 30 texts that no emoji shows ("quantum chromodynamics", "asdfghjkl", other languages) 0 to 7 % were, and 3 to
9 % among 20 to 400 emoji; the first of them have a word that one does show ("plate tectonics"). Twice
`EXPECTED_BY_CHANCE` gives 54 to 66 % of the names among all emoji, for 7 to 10 % of those texts and up to 19 % among
100 emoji: a wrong answer called confident is the worse mistake. Queries by image are judged more weakly, because others
look alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from opsin.search.query import Term

EXPECTED_BY_CHANCE = 0.25
SMALL = 50
"""A smaller collection is judged as one of this size, so that a rare cosine is asked of its few images, too."""
FEWEST_IMAGES = 3
"""With fewer, images cannot be compared with each other."""
ALL_ALIKE = 1e-3
"""Where queries about anything come closer than this to a cosine of 1 on average, nothing can stand out."""

_WORDS = """
a person, a crowd of people, a child, a face, hands, a cat, a dog, a bird, a fish, a horse, an insect, a wild
animal, a tree, a flower, a forest, a mountain, a beach, the sea, a river, a lake, the sky, clouds, a sunset, the
moon, snow, rain, fire, a desert, a garden, a house, a tall building, a bridge, a street, a city at night, a church,
a room, a kitchen, a bed, a chair, a table, a lamp, a window, a door, a car, a bus, a train, an aeroplane, a boat, a
bicycle, a motorcycle, a truck, a road sign, food on a plate, fruit, vegetables, bread, a cake, meat, a drink, a cup
of coffee, a bottle, a book, a newspaper, a map, a letter, a number, written text, a flag, a clock, a telephone, a
computer, a camera, a television, a robot, a tool, a knife, a machine, a wheel, a key, money, a box, a bag, clothes,
a hat, shoes, glasses, jewellery, a ball, a game, a toy, a musical instrument, a painting, a drawing, a statue, a
sports match, a dance, a party, a wedding, a meeting, a school, a hospital, a doctor, a soldier, a police officer, a
farmer, a worker, a king, an angel, a monster, a skeleton, a heart, a star, an arrow, a circle, a square, a
triangle, a line, a pattern, a happy face, a sad face, an angry face, sleep, love, war, music, science, travel, the
colour red, the colour blue, the colour green, black and white, the planet earth, the sun, a rocket, an egg, a
snake, a mushroom
"""
BACKGROUND_TEXTS = tuple(" ".join(_WORDS.split()).split(", "))
"""About anything: what a query is compared with."""


@dataclass(frozen=True)
class ChanceLevel:
    """Mean and spread of the cosines of queries about anything with the images of a collection."""

    mean: float
    spread: float

    def limit(self, collection_size: int) -> float:
        """The cosine that fewer than `EXPECTED_BY_CHANCE` images of a collection reach by chance."""
        room = 1 - self.mean
        freedom = max((room / self.spread) ** 2 - 1, 1.0)
        quantile = student_quantile(1 - EXPECTED_BY_CHANCE / max(collection_size, SMALL), freedom)
        return self.mean + room * quantile / math.sqrt(freedom + quantile**2)


def chance_level(terms: Sequence[Term], texts: np.ndarray, sample: np.ndarray) -> ChanceLevel | None:
    """What chance gives for a query of these terms, whose weights and kinds count and not their content.

    `texts` float32 (B, D), vectors of `BACKGROUND_TEXTS`; `sample` float32 (S, D), vectors of images of the collection.
    None when there is too little to compare with, or all is alike.
    """
    with_images = any(not term.is_text for term in terms)
    if len(sample) < (FEWEST_IMAGES if with_images else 1) or (len(texts) == 0 and not with_images):
        return None
    count = min(len(BACKGROUND_TEXTS), len(sample)) if with_images else len(texts)
    queries = np.zeros((count, sample.shape[1]), dtype=np.float32)
    own = np.zeros((count, len(sample)), dtype=bool)  # an image is no stranger to a query that it is part of
    for position, term in enumerate(terms):
        source = texts if term.is_text else sample
        rows = (np.arange(count) * len(source) // count + position) % len(source)
        queries += np.float32(term.weight) * source[rows]
        if not term.is_text:
            own[np.arange(count), rows] = True
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-6)
    cosines = (queries @ sample.T)[~own].astype(np.float64)
    if len(cosines) == 0 or cosines.mean() > 1 - ALL_ALIKE:
        return None
    return ChanceLevel(float(cosines.mean()), max(float(cosines.std()), 1e-3))


def standout(cosine: float, chance: ChanceLevel | None, collection_size: int) -> float:
    """How far the best cosine stands out, in units of what it takes to be confident: 1 and above is confident; 0 when
    there is nothing to compare with."""
    if chance is None:
        return 0.0
    return (cosine - chance.mean) / (chance.limit(collection_size) - chance.mean)


def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t (expansion of Cornish and Fisher around the normal one; Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
