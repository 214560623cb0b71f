"""Pickles of numpy arrays, as data sets are published in, read without running anything that a pickle can hold."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np

NUMBERS = re.compile("b1|[iu][1248]|f[248]|U[0-9]+|O8?")
"""Kinds of array elements that are admitted."""


def read_pickle(content: bytes, encoding: str = "ASCII") -> Any:
    """What a pickle holds of arrays, strings, numbers, lists (tuples become lists too) and dictionaries.

    `encoding` is that of `pickle.loads`. Raises UnpicklingError for anything else, and, as a damaged pickle can end in
    any way, any other exception.
    """
    return _plain(_Unpickler(io.BytesIO(content), encoding=encoding).load())


class _Dtype:
    """In place of a numpy type, whose own state a hostile file could set to anything."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def checked(self) -> np.dtype[Any]:
        if not NUMBERS.fullmatch(self.code) or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an array of type {self.code[:40]!r}")
        return np.dtype(self.order + self.code) if self.code[0] != "O" else np.dtype(object)


class _Array:
    """In place of a numpy array, likewise."""

    state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def build(self) -> Any:
        if self.state is None:
            raise pickle.UnpicklingError("it holds an array without content")
        _, shape, dtype, fortran, data = self.state
        if dtype.checked().hasobject:
            items = [_plain(item) for item in data]
            return items[0] if shape == () else items
        return np.frombuffer(data, dtype.checked()).reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.checked())[0].item()


def _text(value: Any) -> str:
    """A string, which is bytes where Python 2 wrote it and the encoding asks for them."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _latin1(text: str, codec: str) -> bytes:
    """How the oldest protocols write bytes."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {codec[:40]!r}")
    return text.encode("latin1")


ADMITTED: dict[str, Any] = {
    "multiarray._reconstruct": lambda *_: _Array(),
    "multiarray.scalar": _scalar,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _latin1,
}


class _Unpickler(pickle.Unpickler):
    """Knows arrays and what needs no import: strings, numbers, lists, tuples, dictionaries. It imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        short = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        try:
            return ADMITTED[f"{short}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}; only arrays, strings, lists and dictionaries are admitted"
            ) from None


def _plain(content: Any) -> Any:
    """The content with real arrays in place of what stood for them."""
    if isinstance(content, _Array):
        return content.build()
    if isinstance(content, dict):
        return {_plain(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content
