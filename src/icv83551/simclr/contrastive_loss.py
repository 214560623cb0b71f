"""The contrastive loss under the course's path; the notebook relies on the star import for `np` and `torch` as well."""

import numpy as np
import torch
from numpy.typing import ArrayLike

from opsin.simclr.loss import (
    compute_sim_matrix,
    sim,
    sim_positive_pairs,
    simclr_loss_naive,
    simclr_loss_vectorized,
)

__all__ = [
    "compute_sim_matrix",
    "np",
    "rel_error",
    "sim",
    "sim_positive_pairs",
    "simclr_loss_naive",
    "simclr_loss_vectorized",
    "torch",
]

SMALLEST_SIZE = 1e-8


def rel_error(x: ArrayLike, y: ArrayLike) -> float:
    """The largest difference of two elements, as a share of the sum of their sizes."""
    x, y = np.asarray(x), np.asarray(y)
    return float(np.max(np.abs(x - y) / np.maximum(SMALLEST_SIZE, np.abs(x) + np.abs(y))))
