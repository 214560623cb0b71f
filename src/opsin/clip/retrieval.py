"""How well images and texts find each other.

Dimensions: I images, T different texts, E width of the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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

    def mean_recall(self, at: int) -> float:
        """The mean of both directions' recall at one of 1, 5, 10."""
        return (self.text_to_image.recall[at] + self.image_to_text.recall[at]) / 2


def measure_retrieval(image_features: Tensor, text_features: Tensor, groups: np.ndarray) -> RetrievalPair:
    """Rank all images for each text and all texts for each image, by the cosine.

    `image_features` (I, E) and `text_features` (T, E) have length one; `groups` int64 (I,) says which text belongs to
    each image. A right answer is one of the same group. Equal cosines count against it.
    """
    own = torch.from_numpy(groups)
    images_of_text = torch.bincount(own, minlength=len(text_features))
    asked = images_of_text.nonzero()[:, 0]
    by_text = _ranks(text_features[asked], asked, image_features, own)
    by_image = _ranks(image_features, own, text_features, torch.arange(len(text_features)))
    return RetrievalPair(
        _scores(by_text, len(image_features), images_of_text[asked].numpy()),
        _scores(by_image, len(text_features), np.ones(len(image_features), dtype=np.int64)),
    )


def _ranks(queries: Tensor, query_groups: Tensor, candidates: Tensor, candidate_groups: Tensor) -> np.ndarray:
    """The rank, from 1, of each query's best right answer: the wrong ones that are not below it, and one."""
    ranks = []
    for start in range(0, len(queries), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        cosines = queries[rows] @ candidates.T
        is_right = query_groups[rows, None] == candidate_groups
        best = cosines.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append((~(cosines < best) & ~is_right).sum(dim=1) + 1)  # NaN is below nothing
    return torch.cat(ranks).numpy()


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
