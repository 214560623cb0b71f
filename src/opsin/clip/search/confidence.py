"""Does the best hit answer the query, or is it only the least bad one?

The raw cosine does not tell: its usual size differs between models, queries and collections. So the best hit is
compared in two ways, each of them relative.

- With the rest of the collection: how far does its cosine stand above those of this query with other images?
- With other queries: how far does the cosine of this query with this image stand above those that other texts, which
  are about anything at all, have with it? For a query without text, other images of the collection take the
  place of texts.

The first fails when most of the collection matches, the second when the image matches everything. The distance is in
units of the spread below the median, which neither matches nor a skew to the right can widen. An answer counts as
confident when either distance would occur by chance in fewer than `FALSE_ALARM` of collections of this size in which
nothing matches: N images are N chances, so the level of a single one is `FALSE_ALARM` / N (Bonferroni), on a normal
distribution, with Student's correction because the spread is estimated.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

FALSE_ALARM = 0.05
FEWEST_OTHERS = 8
"""With fewer to compare with, nothing can be said."""
LOWER_QUANTILE = NormalDist().cdf(-1)

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


def standout(
    query: np.ndarray, best: np.ndarray, sample: np.ndarray, others: np.ndarray | None, collection_size: int
) -> float:
    """How far the best hit stands out, in units of what it takes to be confident: 1 and above is confident.

    `query` float32 (D,); `best` float32 (D,), the vector of the best hit; `sample` float32 (S, D), other vectors of the
    collection; `others` float32 (B, D), vectors of other queries of the same kind, None for a query by image.
    """
    if len(sample) == 0:
        return _strength(float(query @ best), others @ best, 1) if others is not None else 0.0
    cosine = float(query @ best)
    among_images = _strength(cosine, sample @ query, collection_size)
    rivals = sample if others is None else others
    among_queries = _strength(cosine, rivals @ best, collection_size)
    return max(among_images, among_queries)


def _strength(value: float, others: np.ndarray, chances: int) -> float:
    """How far `value` lies above the others, in units of the limit for one of `chances` draws."""
    if len(others) < FEWEST_OTHERS:
        return 0.0
    centre = float(np.median(others))
    spread = max(centre - float(np.quantile(others, LOWER_QUANTILE)), 1e-3)
    return (value - centre) / spread / _limit(1 - FALSE_ALARM / max(chances, 1), len(others) / 2)


def _limit(probability: float, freedom: float) -> float:
    """Quantile of Student's t (expansion of Cornish and Fisher around the normal one; Abramowitz and Stegun 26.7.5).

    A quantile as the measure of spread tells about as much as a standard deviation of half as many values.
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
