"""How well images and texts find each other.

Dimensions: I images, T different texts, P pairs of an image and a text of it, E width of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.results import Table


def cosine_similarity(text_features: Tensor, image_features: Tensor) -> Tensor:
    """Cosines (N, M) in [-1, 1] of every text (N, D) with every image (M, D), float32, or float64 where they are.

    A vector of zeros has no direction: its cosines are 0. Raises ValueError for features of other shapes.
    """
    shapes = f"{tuple(text_features.shape)} and {tuple(image_features.shape)}"
    if text_features.ndim != 2 or image_features.ndim != 2 or text_features.shape[1] != image_features.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D) with the same D, not {shapes}")
    return _unit(text_features) @ _unit(image_features).T


def _unit(features: Tensor) -> Tensor:
    """Rows of length one. They are scaled before they are squared, which else could overflow or vanish."""
    if features.dtype != torch.float64:
        features = features.float()
    if features.numel() == 0:
        return features
    largest = features.detach().abs().amax(dim=1, keepdim=True)
    return F.normalize(features / largest.clamp_min(torch.finfo(features.dtype).tiny), dim=1)


ROWS_AT_A_TIME = 1024
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """Scores of one direction over `queries` queries among `candidates`.

    `recall[k]` is the share of queries with a right answer among their first k; `chance[k]` is what a random order
    reaches on average. `median_rank` is that of the first right answer, counted from 1.
    """

    queries: int
    candidates: int
    recall: dict[int, float]
    chance: dict[int, float]
    median_rank: float


@dataclass(frozen=True)
class RetrievalPair:
    """Both directions among the same images and texts."""

    text_to_image: Retrieval
    image_to_text: Retrieval

    def document(self) -> dict[str, Any]:
        """The scores of both directions as JSON types."""
        return {
            name: {
                "queries": scores.queries,
                "candidates": scores.candidates,
                **{f"recall_at_{k}": value for k, value in scores.recall.items()},
                **{f"chance_at_{k}": value for k, value in scores.chance.items()},
                "median_rank": scores.median_rank,
            }
            for name, scores in (("text_to_image", self.text_to_image), ("image_to_text", self.image_to_text))
        }

    def mean_recall(self, at: int) -> float:
        """The mean of both directions' recall at one of 1, 5, 10."""
        return (self.text_to_image.recall[at] + self.image_to_text.recall[at]) / 2

    def mean_chance(self, at: int) -> float:
        """The mean of both directions' `chance` at one of 1, 5, 10."""
        return (self.text_to_image.chance[at] + self.image_to_text.chance[at]) / 2

    @property
    def telling_rank(self) -> int:
        """The largest of 1, 5, 10 at which chance finds the right answer for less than half of the queries, else 1:
        beyond it recall tells nothing."""
        return max((k for k in RECALL_AT if self.mean_chance(k) < 0.5), default=1)


def retrieval_table(pairs: Mapping[str, RetrievalPair], title: str) -> Table:
    """Both directions of each drawing style."""
    rows = [
        (style, direction, scores.queries, scores.candidates)
        + (*scores.recall.values(), *scores.chance.values(), scores.median_rank)
        for style, pair in pairs.items()
        for direction, scores in (("text to image", pair.text_to_image), ("image to text", pair.image_to_text))
    ]
    recalls, chances = ([f"{name}@{k}" for k in RECALL_AT] for name in ("recall", "chance"))
    return Table(("style", "direction", "queries", "among", *recalls, *chances, "median rank"), rows, title)


def measure_retrieval(image_features: Tensor, text_features: Tensor, groups: np.ndarray) -> RetrievalPair:
    """`measure_pairs` where each image has one text: `groups` int64 (I,) says which one."""
    return measure_pairs(image_features, text_features, np.arange(len(groups)), groups)


def measure_pairs(
    image_features: Tensor, text_features: Tensor, images: np.ndarray, texts: np.ndarray
) -> RetrievalPair:
    """Rank all images for each text and all texts for each image, by the cosine.

    `image_features` (I, E) and `text_features` (T, E) have length one. `images` and `texts` int64 (P,), without
    repeats, say which of them belong together: these are the right answers of each other. Equal cosines count against
    them. What belongs to nothing is no query.
    """
    texts_of_image = np.bincount(images, minlength=len(image_features))
    images_of_text = np.bincount(texts, minlength=len(text_features))
    by_text = _ranks(text_features, image_features, texts, images)
    by_image = _ranks(image_features, text_features, images, texts)
    return RetrievalPair(
        _scores(by_text, len(image_features), images_of_text[images_of_text > 0]),
        _scores(by_image, len(text_features), texts_of_image[texts_of_image > 0]),
    )


def _ranks(queries: Tensor, candidates: Tensor, asked: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rank, from 1, of each query's best right answer: the wrong ones that are not below it, and one. Candidates
    `right` (P,) are right answers of the queries `asked` (P,); each query that is among these is ranked, in order."""
    order = np.argsort(asked, kind="stable")
    asked, right = asked[order], right[order]
    rows = np.unique(asked)
    ranks = []
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        chosen = rows[start : start + ROWS_AT_A_TIME]
        pairs = slice(np.searchsorted(asked, chosen[0]), np.searchsorted(asked, chosen[-1], side="right"))
        cosines = queries[torch.from_numpy(chosen)] @ candidates.T
        is_right = torch.zeros(cosines.shape, dtype=torch.bool, device=cosines.device)
        is_right[np.searchsorted(chosen, asked[pairs]), right[pairs]] = True
        best = cosines.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append((~(cosines < best) & ~is_right).sum(dim=1) + 1)  # NaN is below nothing
    return torch.cat(ranks).cpu().numpy()


def _scores(ranks: np.ndarray, candidates: int, right: np.ndarray) -> Retrieval:
    """`right` (queries,) says how many of the candidates are right answers of each query."""
    return Retrieval(
        queries=len(ranks),
        candidates=candidates,
        recall={k: float((ranks <= k).mean()) for k in RECALL_AT},
        chance={k: float(_chance(candidates, right, k).mean()) for k in RECALL_AT},
        median_rank=float(np.median(ranks)),
    )


def _chance(candidates: int, right: np.ndarray, k: int) -> np.ndarray:
    """Probability that one of `right` answers is among k drawn from the candidates (hypergeometric)."""
    missed = np.ones(len(right))
    for draw in range(min(k, candidates)):
        missed *= np.clip((candidates - right - draw) / (candidates - draw), 0, 1)
    return 1 - missed
