"""The COCO captioning data under the course's path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opsin.data.course_coco import load_course_coco

BASE_DIR = Path(__file__).parent / "datasets" / "coco_captioning"


def load_coco_data(
    base_dir: str | Path = BASE_DIR, max_train: int | None = None, pca_features: bool = True
) -> dict[str, Any]:
    """The data as one dictionary, in the notebook's order; prints where it is read from.

    `max_train` draws so many training captions with replacement; features and addresses stay whole. Raises DataError.
    """
    print("base dir ", base_dir)
    loaded = load_course_coco(Path(base_dir), pca_features=pca_features)
    data: dict[str, Any] = {
        "train_captions": loaded.train.captions,
        "train_image_idxes": loaded.train.image_idxs,
        "val_captions": loaded.val.captions,
        "val_image_idxes": loaded.val.image_idxs,
        "train_features": loaded.train.features,
        "val_features": loaded.val.features,
        "idx_to_word": loaded.idx_to_word,
        "word_to_idx": loaded.word_to_idx,
        "train_urls": loaded.train.urls,
        "val_urls": loaded.val.urls,
    }
    if max_train is not None:
        chosen = np.random.randint(len(loaded.train.captions), size=max_train)
        data["train_captions"] = data["train_captions"][chosen]
        data["train_image_idxes"] = data["train_image_idxes"][chosen]
    return data


def sample_coco_minibatch(
    data: dict[str, Any], batch_size: int = 100, split: str = "train"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random captions (N, T) of a split, with the features (N, D) and the addresses (N,) of their images."""
    chosen = np.random.choice(len(data[f"{split}_captions"]), batch_size)
    images = data[f"{split}_image_idxes"][chosen]
    return data[f"{split}_captions"][chosen], data[f"{split}_features"][images], data[f"{split}_urls"][images]


def decode_captions(captions: np.ndarray, idx_to_word: Sequence[str]) -> str | list[str]:
    """The text of one caption (T,), or a list of those of several (N, T): up to the first `<END>`, without `<NULL>`."""
    captions = np.asarray(captions)
    texts = []
    for caption in np.atleast_2d(captions):
        words = [idx_to_word[index] for index in caption]
        length = words.index("<END>") + 1 if "<END>" in words else len(words)
        texts.append(" ".join(word for word in words[:length] if word != "<NULL>"))
    return texts[0] if captions.ndim == 1 else texts
