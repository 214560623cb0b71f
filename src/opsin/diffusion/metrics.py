"""Scores of drawn images, all of them from feature vectors or pixels: fidelity, diversity, distributions, copies.

Dimensions: N images, M names, D width of the vectors, T training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROWS_AT_A_TIME = 2048


@dataclass(frozen=True)
class Fidelity:
    """Shares of images whose prompt is the nearest of all names, or among the nearest five; None where there are no
    more names than that, and every one is among them.

    The errors are standard errors over prompts, the noise of having asked for these ones; None for a single prompt.
    """

    top1: float | None
    top5: float | None
    top1_error: float | None
    top5_error: float | None


@dataclass(frozen=True)
class Diversity:
    """Mean cosine distances of pairs of images; None where there is no such pair.

    `same_prompt` is over the pairs of each prompt's images, and then over prompts; `different_prompts` over all pairs
    of images of two prompts.
    """

    same_prompt: float | None
    different_prompts: float | None


@dataclass(frozen=True)
class Neighbours:
    """For each image its nearest training image `rows`, int64 (N,), at Euclidean `distances` (N,).

    `spacing` (N,) is how far that training image is from its own nearest other one, infinite where there is none.
    """

    rows: np.ndarray
    distances: np.ndarray
    spacing: np.ndarray

    @property
    def is_copy(self) -> np.ndarray:
        """bool (N,): nearer to a training image than any other training image is to that one."""
        return self.distances < self.spacing

    @property
    def nearness(self) -> np.ndarray:
        """float64 (N,): distances in units of the spacing, below 1 for copies."""
        return self.distances / np.maximum(self.spacing, 1e-12)


def prompt_ranks(image_features: np.ndarray, name_features: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """The place, from 1, of each image's prompt among all names by cosine; equal cosines count against the prompt.

    `image_features` (N, D) and `name_features` (M, D) have length one, `prompts` int64 (N,) are rows of the latter.
    """
    ranks = []
    for start in range(0, len(image_features), ROWS_AT_A_TIME):
        own = prompts[start : start + ROWS_AT_A_TIME]
        cosines = image_features[start : start + ROWS_AT_A_TIME] @ name_features.T
        right = cosines[np.arange(len(own)), own]
        ranks.append((cosines >= right[:, None]).sum(axis=1))
    return np.concatenate(ranks)


def prompt_fidelity(ranks: np.ndarray, prompts: np.ndarray, num_names: int) -> Fidelity:
    """Of the ranks (N,), among `num_names` names, of images of the prompts int64 (N,).

    Every prompt counts the same, however many images it has.
    """
    scores: dict[int, tuple[float | None, float | None]] = {}
    for k in (1, 5):
        if num_names <= k:
            scores[k] = (None, None)
            continue
        shares = np.array([(ranks[prompts == prompt] <= k).mean() for prompt in np.unique(prompts)])
        error = float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None
        scores[k] = (float(shares.mean()), error)
    return Fidelity(scores[1][0], scores[5][0], scores[1][1], scores[5][1])


def feature_diversity(features: np.ndarray, prompts: np.ndarray) -> Diversity:
    """Of the features (N, D), of length one, of images of the prompts int64 (N,)."""
    within, cosines, pairs = [], 0.0, 0
    for prompt in np.unique(prompts):
        own = features[prompts == prompt]
        count = len(own) * (len(own) - 1)
        cosine = _cosines_of_pairs(own)
        cosines, pairs = cosines + cosine, pairs + count
        if count:
            within.append(1 - cosine / count)
    others = len(features) * (len(features) - 1) - pairs
    return Diversity(
        same_prompt=max(0.0, float(np.mean(within))) if within else None,
        different_prompts=max(0.0, 1 - (_cosines_of_pairs(features) - cosines) / others) if others else None,
    )


def _cosines_of_pairs(features: np.ndarray) -> float:
    """The sum of the cosines of all ordered pairs of two rows: the square of their sum has each of them once, and the
    squares of the rows besides."""
    features = features.astype(np.float64)
    return float(np.square(features.sum(axis=0)).sum() - np.square(features).sum())


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between normal distributions with the means and covariances of two sets of vectors, (N, D) and (M, D).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), after "The Frechet Distance between Multivariate Normal Distributions"
    (Dowson and Landau 1982). With C1 = A^T A and C2 = B^T B the trace of the root is the sum of the singular values of
    A B^T: no root of a matrix is taken, so covariances without full rank, as those of few images, do no harm. A finite
    sample puts the distance too high, the more so the smaller it is. Raises ValueError for fewer than two vectors.
    """
    if len(first) < 2 or len(second) < 2:
        raise ValueError(f"covariances take at least two vectors each, not {len(first)} and {len(second)}")
    means, factors = [], []
    for vectors in (first.astype(np.float64), second.astype(np.float64)):
        means.append(vectors.mean(axis=0))
        factors.append(np.linalg.qr(vectors - means[-1], mode="r") / np.sqrt(len(vectors) - 1))
    root = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    traces = sum(np.square(factor).sum() for factor in factors)
    return max(0.0, float(np.square(means[0] - means[1]).sum() + traces - 2 * root))


def find_neighbours(vectors: np.ndarray, training: np.ndarray) -> Neighbours:
    """Nearest of the training vectors (T, D) for each vector (N, D), by the Euclidean distance.

    No training vector should be there twice: it would have no distance to its nearest other one.
    """
    rows, distances = _nearest(vectors, training)
    nearest = np.unique(rows)
    _, spacing = _nearest(training[nearest], training, excluded=nearest)
    return Neighbours(rows, distances, spacing[np.searchsorted(nearest, rows)])


def _nearest(
    vectors: np.ndarray, bank: np.ndarray, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Row of the bank and distance, both (N,), infinite where nothing but the row in `excluded` (N,) is there."""
    vectors = vectors.astype(np.float64)
    best, rows = np.full(len(vectors), np.inf), np.zeros(len(vectors), dtype=np.int64)
    for start in range(0, len(bank), ROWS_AT_A_TIME):
        block = bank[start : start + ROWS_AT_A_TIME].astype(np.float64)
        # The squares of the vectors are the same for all of the bank: they have no say in which is nearest.
        squared = np.square(block).sum(axis=1) - 2 * vectors @ block.T
        if excluded is not None:
            inside = np.flatnonzero((excluded >= start) & (excluded < start + len(block)))
            squared[inside, excluded[inside] - start] = np.inf
        columns = squared.argmin(axis=1)
        values = squared[np.arange(len(vectors)), columns]
        better = values < best
        best[better], rows[better] = values[better], columns[better] + start
    # From the differences themselves, so that the distance to an equal vector is zero and not what rounding left.
    distances = np.linalg.norm(vectors - bank[rows], axis=1)
    return rows, np.where(np.isinf(best), np.inf, distances)
