"""The course's emoji: an `.npz` file of pickled dictionaries, read without running anything that a pickle can hold.

Each entry is a 0-d object array with a dictionary: `images`, uint8 RGB arrays, and `texts`, strings.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsin.errors import DataError

NUMBERS = re.compile("b1|[iu][1248]|f[248]|U[0-9]+|O8?")
"""Kinds of array elements that are admitted."""


@dataclass(frozen=True)
class CourseEmoji:
    """One emoji: drawings uint8 (H, W, 3), of any sizes, and texts; at least one of each."""

    images: tuple[np.ndarray, ...]
    texts: tuple[str, ...]


def load_course_emoji(path: Path | str) -> list[CourseEmoji]:
    """Every entry of the file. Raises DataError when it is absent, damaged, holds anything else, or nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            entries = [_entry(_read_array(archive.read(name)), f"{path}, {name}") for name in names]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except DataError:
        raise
    except Exception as error:  # a damaged archive or pickle can end in any way
        raise DataError(f"{path} was refused: {str(error)[:200] or type(error).__name__}") from error
    if not entries:
        raise DataError(f"{path} holds no emoji")
    return entries


def _read_array(content: bytes) -> Any:
    """The object of a 0-d object array in numpy's file format."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if shape != () or not dtype.hasobject:
        raise DataError(f"an entry is an array of shape {shape} and type {dtype}, not a dictionary")
    return _plain(_Unpickler(file).load())


class _Dtype:
    """In place of a numpy type, whose own state a hostile file could set to anything."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def checked(self) -> np.dtype[Any]:
        if not NUMBERS.fullmatch(self.code) or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an array of type {str(self.code)[:40]!r}")
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


def _entry(content: Any, where: str) -> CourseEmoji:
    if not isinstance(content, dict) or not {"images", "texts"} <= content.keys():
        raise DataError(f"{where} is no dictionary with `images` and `texts`")
    images = tuple(np.asarray(image) for image in content["images"])
    texts = tuple(content["texts"])
    if not images or any(i.ndim != 3 or i.shape[2] != 3 or i.dtype != np.uint8 or i.size == 0 for i in images):
        raise DataError(f"{where}: `images` must be uint8 arrays of shape (H, W, 3), at least one")
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: `texts` must be strings, at least one")
    return CourseEmoji(images, tuple(str(text) for text in texts))
