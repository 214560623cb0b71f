"""A small data set in the layout of the course's COCO files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "red", "green", "blue", "square", "circle", "on", "white"]
LENGTH = 9


def course_caption(words: list[int]) -> list[int]:
    """Word indices between `<START>` and `<END>`, padded to the width of the file."""
    return [1, *words, 2] + [0] * (LENGTH - 2 - len(words))


def write_course_coco(directory: Path, *, num_train: int = 60, num_val: int = 20, **spellings: str) -> dict[str, Any]:
    """Write the files and return the arrays. `spellings` renames keys of the captions file.

    An image's features are noise around a vector of its colour and shape, which its two captions name.
    """
    generator = np.random.default_rng(0)
    colours, shapes = generator.normal(size=(3, 512)), generator.normal(size=(2, 512))
    arrays: dict[str, Any] = {}
    for split, count in (("train", num_train), ("val", num_val)):
        colour, shape = generator.integers(3, size=count), generator.integers(2, size=count)
        features = colours[colour] + shapes[shape] + 0.1 * generator.normal(size=(count, 512))
        captions = [course_caption([4, 5 + c, 8 + s]) for c, s in zip(colour, shape, strict=True)]
        captions += [course_caption([4, 8 + s, 10, 11]) for s in shape]
        order = generator.permutation(2 * count)
        arrays[f"{split}_captions"] = np.array(captions, dtype=np.int32)[order]
        arrays[f"{split}_image_idxs"] = np.tile(np.arange(count, dtype=np.int32), 2)[order]
        arrays[f"{split}_features"] = features.astype(np.float32)
        arrays[f"{split}_urls"] = [f"http://images.example/{split}/{row}.jpg" for row in range(count)]
    directory.mkdir(parents=True, exist_ok=True)
    with h5py.File(directory / "coco2014_captions.h5", "w") as file:
        for key in ("train_captions", "train_image_idxs", "val_captions", "val_image_idxs"):
            file[spellings.get(key, key)] = arrays[key]
    for split in ("train", "val"):
        features = arrays[f"{split}_features"]
        for name, columns in (("_pca", features), ("", np.tile(features, 8))):
            with h5py.File(directory / f"{split}2014_vgg16_fc7{name}.h5", "w") as file:
                file["features"] = columns
        (directory / f"{split}2014_urls.txt").write_text("\n".join(arrays[f"{split}_urls"]) + "\n", encoding="utf-8")
    vocabulary = {"idx_to_word": WORDS, "word_to_idx": {word: index for index, word in enumerate(WORDS)}}
    (directory / "coco2014_vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return arrays
