"""The course's COCO data: captions as word indices, image features, a vocabulary and addresses, in HDF5, JSON and text.

A directory holds `coco2014_captions.h5`, `train2014_vgg16_fc7_pca.h5` and `val2014_vgg16_fc7_pca.h5` (or the same
without `_pca`), `coco2014_vocab.json`, `train2014_urls.txt` and `val2014_urls.txt`. It has no images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opsin.config import parse_json
from opsin.counts import agree, number_of
from opsin.errors import DataError, DataNotFoundError, MissingExtraError

SPLITS = ("train", "val")
EXAMPLES = 3


@dataclass(frozen=True)
class CourseSplit:
    """One split: `captions` int32 (M, T) padded with `<NULL>`, `image_idxs` int32 (M,) the row of each caption's image,
    `features` float32 (N, D) and `urls` str (N,) of the images."""

    captions: np.ndarray
    image_idxs: np.ndarray
    features: np.ndarray
    urls: np.ndarray


@dataclass(frozen=True)
class CourseCoco:
    """The whole data set, with its vocabulary both ways."""

    train: CourseSplit
    val: CourseSplit
    idx_to_word: list[str]
    word_to_idx: dict[str, int]


def load_course_coco(directory: Path, *, pca_features: bool = True) -> CourseCoco:
    """Read the directory; features have 512 columns, or 4096 without `pca_features`.

    Raises DataError, naming file and key, when something is missing, damaged or does not fit together: captions for
    images without features, features that are not finite, word indices outside the vocabulary, other numbers of
    captions than of image indices, or of addresses than of features. Raises MissingExtraError without h5py.
    """
    idx_to_word, word_to_idx = _read_vocabulary(directory / "coco2014_vocab.json")
    captions = directory / "coco2014_captions.h5"
    keys: dict[str, tuple[str, ...]] = {f"{split}_captions": (f"{split}_captions",) for split in SPLITS}
    # Published files say idxs; the course's notebook says idxes.
    keys |= {f"{split}_image_idxs": (f"{split}_image_idxs", f"{split}_image_idxes") for split in SPLITS}
    arrays = _read_hdf5(captions, keys)
    splits = {}
    for split in SPLITS:
        features = directory / f"{split}2014_vgg16_fc7{'_pca' if pca_features else ''}.h5"
        part = CourseSplit(
            arrays[f"{split}_captions"],
            arrays[f"{split}_image_idxs"],
            _read_hdf5(features, {"features": ("features",)})["features"],
            _read_lines(directory / f"{split}2014_urls.txt"),
        )
        _refuse_mismatches(part, split, len(idx_to_word), directory)
        splits[split] = part
    return CourseCoco(splits["train"], splits["val"], idx_to_word, word_to_idx)


def _read_hdf5(path: Path, keys: dict[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """The arrays of a file, each under the first of its spellings that is there."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading the course's HDF5 files takes h5py: pip install 'opsin[course]'") from error
    if not path.is_file():
        raise DataNotFoundError(f"the course's data lacks the file {path}")
    try:
        with h5py.File(path, "r") as file:
            arrays = {}
            for name, spellings in keys.items():
                key = next((spelling for spelling in spellings if spelling in file), None)
                if key is None:
                    raise DataError(
                        f"{path} has no key {' or '.join(map(repr, spellings))}; it has {', '.join(file) or 'none'}"
                    )
                arrays[name] = np.asarray(file[key])
            return arrays
    except OSError as error:
        raise DataError(f"{path} is damaged or no HDF5 file: {error}") from error


def _read_vocabulary(path: Path) -> tuple[list[str], dict[str, int]]:
    if not path.is_file():
        raise DataNotFoundError(f"the course's data lacks the file {path}")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        idx_to_word, word_to_idx = list(content["idx_to_word"]), dict(content["word_to_idx"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no vocabulary: it needs `idx_to_word` and `word_to_idx`") from error
    if word_to_idx != {word: index for index, word in enumerate(idx_to_word)}:
        raise DataError(f"{path}: `idx_to_word` and `word_to_idx` do not say the same")
    return idx_to_word, word_to_idx


def _read_lines(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataNotFoundError(f"the course's data lacks the file {path}")
    return np.asarray([line.strip() for line in path.read_text(encoding="utf-8").splitlines()])


def _refuse_mismatches(part: CourseSplit, split: str, num_words: int, directory: Path) -> None:
    where = f"the {split} captions in {directory}"
    _refuse_shape(part.captions, 2, np.integer, f"{split}_captions", directory)
    _refuse_shape(part.image_idxs, 1, np.integer, f"{split}_image_idxs", directory)
    _refuse_shape(part.features, 2, np.number, f"the {split} features", directory)
    if broken := np.flatnonzero(~np.isfinite(part.features).all(axis=1)).tolist():
        examples = ", ".join(map(str, broken[:EXAMPLES]))
        raise DataError(
            f"{directory}: the {split} features of {number_of(len(broken), 'image')} are not finite "
            f"numbers, for example {examples}"
        )
    if len(part.captions) != len(part.image_idxs):
        raise DataError(f"{where}: there are {len(part.captions)}, and image indices for {len(part.image_idxs)}")
    if len(part.urls) != len(part.features):
        raise DataError(
            f"{directory}: the {split} split has features of {number_of(len(part.features), 'image')} "
            f"and {number_of(len(part.urls), 'address', 'addresses')}"
        )
    _refuse_outside(part.image_idxs, len(part.features), f"{where} name images without features")
    _refuse_outside(part.captions, num_words, f"{where} hold words that the vocabulary has not")


def _refuse_shape(array: np.ndarray, ndim: int, kind: Any, name: str, directory: Path) -> None:
    if array.ndim != ndim or not np.issubdtype(array.dtype, kind):
        numbers = "whole numbers" if kind is np.integer else "numbers"
        raise DataError(
            f"{directory}: {name} has shape {array.shape} and type {array.dtype}; expected {ndim} axes of {numbers}"
        )


def _refuse_outside(values: np.ndarray, count: int, problem: str) -> None:
    outside = np.unique(values[(values < 0) | (values >= count)])
    if len(outside):
        examples = ", ".join(map(str, outside[:EXAMPLES]))
        raise DataError(
            f"{problem}: {number_of(len(outside), 'index', 'indices')} {agree(len(outside), 'is', 'are')} not in "
            f"0 to {count - 1}, for example {examples}"
        )
