"""The course's HDF5 files: both spellings, and everything that may not fit together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from opsin.data.course_coco import load_course_coco
from opsin.errors import DataError
from opsin.sources.opening import open_source
from tests.course_data import WORDS, write_course_coco


@pytest.mark.parametrize(
    "spellings", [{}, {f"{split}_image_idxs": f"{split}_image_idxes" for split in ("train", "val")}]
)
def test_both_spellings(tmp_path: Path, spellings: dict[str, str]) -> None:
    arrays = write_course_coco(tmp_path, **spellings)
    data = load_course_coco(tmp_path)
    for split, part in (("train", data.train), ("val", data.val)):
        np.testing.assert_array_equal(part.captions, arrays[f"{split}_captions"])
        np.testing.assert_array_equal(part.image_idxs, arrays[f"{split}_image_idxs"])
        np.testing.assert_array_equal(part.features, arrays[f"{split}_features"])
        assert part.urls.tolist() == arrays[f"{split}_urls"]
        assert part.captions.dtype == part.image_idxs.dtype == np.int32
        assert part.features.dtype == np.float32
        assert part.urls.dtype.kind == "U"
    assert data.idx_to_word == WORDS
    assert data.word_to_idx["red"] == 5


def test_features_without_pca(tmp_path: Path) -> None:
    write_course_coco(tmp_path)
    assert load_course_coco(tmp_path).train.features.shape == (60, 512)
    assert load_course_coco(tmp_path, pca_features=False).val.features.shape == (20, 4096)


@pytest.mark.parametrize(
    "name",
    [
        "coco2014_captions.h5",
        "train2014_vgg16_fc7_pca.h5",
        "coco2014_vocab.json",
        "val2014_urls.txt",
    ],
)
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_course_coco(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"lacks the file {tmp_path / name}"):
        load_course_coco(tmp_path)


def replace_in(path: Path, key: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        value = change(file[key][()])
        del file[key]
        file[key] = value


def set_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] = value
        return array

    return change


CAPTIONS, FEATURES = "coco2014_captions.h5", "val2014_vgg16_fc7_pca.h5"


@pytest.mark.parametrize(
    ("file", "key", "change", "message"),
    [
        (CAPTIONS, "train_image_idxs", lambda a: a[:-3], "there are 120, and image indices for 117"),
        (CAPTIONS, "val_image_idxs", set_first(20), "without features: 1 index is not in 0 to 19, for example 20"),
        (CAPTIONS, "val_image_idxs", set_first(-1), "not in 0 to 19, for example -1"),
        (CAPTIONS, "train_captions", set_first(12), "the vocabulary has not: 1 index is not in 0 to 11"),
        (CAPTIONS, "train_captions", lambda a: a[0], r"train_captions has shape \(9,\)"),
        (FEATURES, "features", lambda a: a[:-1], "features of 19 images and 20 addresses"),
        (FEATURES, "features", lambda a: a[:, 0], r"the val features has shape \(20,\)"),
        (FEATURES, "features", lambda a: a.astype("S4"), "expected 2 axes of numbers"),
        (FEATURES, "features", set_first(np.nan), "the val features of 1 image are not finite numbers, for example 0"),
        (CAPTIONS, "val_image_idxs", lambda a: a + 0.5, "type float64; expected 1 axes of whole numbers"),
        (CAPTIONS, "val_captions", lambda a: a.astype(float), "val_captions has .* expected 2 axes of whole numbers"),
    ],
)
def test_what_does_not_fit_together(
    tmp_path: Path, file: str, key: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    write_course_coco(tmp_path)
    replace_in(tmp_path / file, key, change)
    with pytest.raises(DataError, match=message):
        load_course_coco(tmp_path)


def test_missing_key_and_damaged_file(tmp_path: Path) -> None:
    write_course_coco(tmp_path, train_image_idxs="idx")
    with pytest.raises(DataError, match="no key 'train_image_idxs' or 'train_image_idxes'; it has idx, train_captions"):
        load_course_coco(tmp_path)
    (tmp_path / CAPTIONS).write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="is damaged or no HDF5 file"):
        load_course_coco(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"idx_to_word": []}', json.dumps({"idx_to_word": ["a"], "word_to_idx": {}})])
def test_damaged_vocabulary(tmp_path: Path, content: str) -> None:
    write_course_coco(tmp_path)
    (tmp_path / "coco2014_vocab.json").write_text(content)
    with pytest.raises(DataError, match=r"coco2014_vocab\.json"):
        load_course_coco(tmp_path)


def test_is_no_source_of_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds image features instead of images"):
        open_source(f"course-coco:{tmp_path}")
