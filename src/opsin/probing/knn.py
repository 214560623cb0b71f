"""Classification by the nearest neighbours of a feature, which evaluates an encoder without training anything.

Each of the k nearest features votes for its class with the weight exp(cosine / temperature) (Wu et al. 2018,
"Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4).

Dimensions: N features asked for, M features of the bank, D width, K classes, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from opsin.errors import ConfigError

NEIGHBOURS = 200
"""What the course takes, and the largest default of an evaluation."""
TEMPERATURE = 0.5
SIMILARITIES_AT_A_TIME = 2**26
"""256 MiB of float32. With a quarter of it a large bank, which is read once for each part, takes 16 % more time."""


def default_neighbours(bank_labels: Tensor) -> int:
    """How many neighbours should vote, for labels int64 (M,), M >= 1: the square root of M, at most `NEIGHBOURS`, and
    no more than the median class has images: beyond that, most classes could not win the vote. A single rare class
    does not count."""
    median = int(torch.unique(bank_labels, return_counts=True)[1].median())
    return min(NEIGHBOURS, max(1, round(math.sqrt(len(bank_labels)))), median)


def knn_predict(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    chunk_size: int = SIMILARITIES_AT_A_TIME,
) -> Tensor:
    """The share of the votes that each class gets, float32 (N, K), whose rows add up to one.

    `features` (N, D) and `bank` (M, D) have length one, on one device; `bank_labels` int64 (M,) are below
    `num_classes`. At most `chunk_size` similarities are held at once, and never fewer than M. Weights are divided by
    the largest one of their row before they are added, so that no temperature overflows. Raises ConfigError for more
    neighbours than the bank has and for a temperature that is not above zero.
    """
    if not temperature > 0:
        raise ConfigError(f"the temperature of nearest neighbours must be above zero, not {temperature}")
    scores = torch.zeros(len(features), num_classes, device=features.device)
    temperature = max(temperature, torch.finfo(torch.float32).tiny)  # what is smaller would be zero in float32
    start = 0
    for similarities, neighbours in _nearest(features, bank, k, chunk_size):
        votes = torch.softmax((similarities - similarities[:, :1]) / temperature, dim=1)
        scores[start : start + len(votes)].scatter_add_(1, bank_labels[neighbours], votes)
        start += len(votes)
    return scores


def nearest_neighbours(
    features: Tensor, bank: Tensor, k: int, *, chunk_size: int = SIMILARITIES_AT_A_TIME
) -> tuple[Tensor, Tensor]:
    """Similarities float32 (N, k) of the nearest features of the bank, and their rows int64 (N, k), the nearest first.

    The inputs and the error for a k that is too large are those of `knn_predict`.
    """
    parts = list(_nearest(features, bank, k, chunk_size))
    if not parts:
        return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    return torch.cat([similarities for similarities, _ in parts]), torch.cat([rows for _, rows in parts])


def _nearest(features: Tensor, bank: Tensor, k: int, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if not 1 <= k <= len(bank):
        raise ConfigError(
            f"{k} nearest neighbours need a bank of at least as many images, and this one has {len(bank)}; ask for "
            "fewer, at least one"
        )
    transposed = bank.float().T
    for chunk in features.float().split(max(1, chunk_size // len(bank))):
        yield torch.topk(chunk @ transposed, k, dim=1)
