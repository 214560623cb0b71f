"""Gradients by centred differences, (f(x + h) - f(x - h)) / 2h, to check analytic ones against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def eval_numerical_gradient(
    f: Callable[[np.ndarray], float], x: np.ndarray, verbose: bool = True, h: float = 1e-5
) -> np.ndarray:
    """Gradient of a scalar function at `x`, of the shape of `x`.

    `x` is a float array; its elements are changed in place one at a time while `f` is called, and are afterwards what
    they were, so `f` may also look at the array by another name. `verbose` prints each index with its derivative.
    """
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = _either_side(f, x, index, h)
        gradient[index] = (above - below) / (2 * h)
        if verbose:
            print(index, gradient[index])
    return gradient


def eval_numerical_gradient_array(
    f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, df: np.ndarray, h: float = 1e-5
) -> np.ndarray:
    """Gradient at `x` of an array-valued function, given the gradient `df` of the loss with respect to its output.

    `x` is changed in place meanwhile, as in `eval_numerical_gradient`; the result has its shape.
    """
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = _either_side(f, x, index, h)
        gradient[index] = np.sum((above - below) * df) / (2 * h)
    return gradient


def _either_side(
    f: Callable[[np.ndarray], np.ndarray | float], x: np.ndarray, index: tuple[int, ...], h: float
) -> tuple[np.ndarray, np.ndarray]:
    """`f` with element `index` of `x` raised and lowered by `h`; copies, for `f` may return the same array again."""
    value = x[index]
    try:
        x[index] = value + h
        above = np.array(f(x))
        x[index] = value - h
        below = np.array(f(x))
    finally:
        x[index] = value
    return above, below
