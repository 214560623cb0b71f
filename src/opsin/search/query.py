"""A query as one vector: the weighted sum of what is wanted and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsin.data.unread import warn_of_unread
from opsin.encoders.base import ImageEncoder, TextEncoder, unread_texts
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike

SHORTEST = 1e-4
"""A sum of vectors of length one that is shorter than this has no direction."""


@dataclass(frozen=True)
class Term:
    """One part of a query."""

    content: ImageLike
    weight: float
    is_text: bool


def query_terms(
    text: str | Sequence[str],
    image: ImageLike | Sequence[ImageLike],
    minus: str | Sequence[str],
    weights: Sequence[float] | None,
) -> list[Term]:
    """The parts of a query, in this order. Raises ConfigError when there is none, or for weights that do not fit."""
    texts = [text] if isinstance(text, str) else list(text)
    images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
    unwanted = [minus] if isinstance(minus, str) else list(minus)
    if any(not words.strip() for words in (*texts, *unwanted)):
        raise ConfigError("the query is empty; say in words, or with an image, what to look for")
    if not texts and not images:
        hint = ", besides what it should not be" if unwanted else ""
        raise ConfigError(f"say in words, or with an image, what to look for{hint}")
    count = len(texts) + len(images) + len(unwanted)
    factors = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(factors) != count:
        raise ConfigError(f"the query has {count} parts and {len(factors)} weights; give one for each, or none")
    if not np.isfinite(factors).all():
        raise ConfigError(f"the weights of a query must be finite numbers, not {factors}")
    signs = [1] * (len(texts) + len(images)) + [-1] * len(unwanted)
    kinds = [True] * len(texts) + [False] * len(images) + [True] * len(unwanted)
    contents: list[ImageLike] = [*texts, *images, *unwanted]
    return [
        Term(content, sign * factor, kind)
        for content, sign, factor, kind in zip(contents, signs, factors, kinds, strict=True)
    ]


def encode_query(encoder: ImageEncoder, terms: Sequence[Term]) -> np.ndarray:
    """The query's vector, float32 (D,), of length one.

    Raises ConfigError when the terms cancel each other out, or hold text and the encoder knows none.
    """
    texts = [str(term.content) for term in terms if term.is_text]
    images = [term.content for term in terms if not term.is_text]
    vectors = []
    if texts:
        if not isinstance(encoder, TextEncoder):
            raise ConfigError(f"{encoder.name} knows images only; search with --image instead of words")
        effect = "what is found has nothing to do with what is not read"
        warn_of_unread(unread_texts(encoder, texts), encoder.name, "query text", effect)
        vectors += list(encoder.encode_text(texts).numpy())
    if images:
        vectors += list(encoder.encode_image(images).numpy())
    weights = [term.weight for term in terms if term.is_text] + [term.weight for term in terms if not term.is_text]
    query = np.sum(
        [weight * vector.astype(np.float64) for weight, vector in zip(weights, vectors, strict=True)], axis=0
    )
    length = float(np.linalg.norm(query))
    if not np.isfinite(length):
        raise ConfigError(f"{encoder.name} gave the query no finite vector")
    if length < SHORTEST:
        raise ConfigError("the parts of the query cancel each other out; change the words or their weights")
    return (query / length).astype(np.float32)
