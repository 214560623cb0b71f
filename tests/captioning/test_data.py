"""Captioned sources as batches: nothing lost, nothing shifted, and captions chosen by the generator."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from opsin.captioning.data import (
    CaptionTable,
    FeatureCaptionDataset,
    all_captions,
    course_caption_dataset,
    image_caption_dataset,
)
from opsin.captioning.splits import open_splits
from opsin.captioning.vocabulary import Vocabulary, tokenise
from opsin.data import datasets
from opsin.data.captioned import with_captions
from opsin.data.course_coco import load_course_coco
from opsin.data.datasets import pick_one
from opsin.errors import DataError
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source
from tests.course_data import WORDS, write_course_coco

from .conftest import tiny_config

CAPTIONS = [
    ("one red", "une rouge"),
    (),
    ("two",),
    ("...", "three 🐶", "three"),
    ("broken",),
    ("six words are in this one",),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images whose red value is 10 times their row; row 4 is broken, row 1 has no caption."""
    rows = []
    for row, texts in enumerate(CAPTIONS):
        Image.new("RGB", (8, 8), (10 * row, 0, 0)).save(tmp_path / f"{row}.png")
        rows.append(json.dumps({"file_name": f"{row}.png", "captions": list(texts)}))
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def test_images_keep_their_captions(folder: Path) -> None:
    source = with_captions(open_source(folder), tokenise)
    assert [(row.id, row.reason) for row in source.skipped] == [("1.png", "has no caption")]
    assert source.captions == [("one red", "une rouge"), ("two",), ("three 🐶", "three"), *CAPTIONS[4:]]
    vocabulary = Vocabulary.from_texts(text for texts in source.captions for text in texts)
    dataset = image_caption_dataset(source, vocabulary, 8, max_length=6)
    assert len(dataset) == 4
    assert [row.id for row in dataset.skipped] == ["1.png", "4.png"]
    assert dataset.table.cut == 1

    batch = dataset.__getitems__([3, 0, 2])
    assert batch["image"].dtype == torch.uint8
    assert batch["image"][:, 0, 0, 0].tolist() == [50, 0, 30]
    assert batch["num_captions"].tolist() == [1, 2, 2]
    assert [dataset.table.references(row) for row in batch["row"].tolist()] == [
        CAPTIONS[5],
        CAPTIONS[0],
        ("three 🐶", "three"),
    ]
    assert batch["captions"].shape == (3, 2, 6)
    texts = [[vocabulary.decode(caption) for caption in captions.tolist()] for captions in batch["captions"]]
    assert texts == [["six words are in this", ""], ["one red", "une rouge"], ["three 🐶", "three"]]
    assert batch["captions"][0, 0].tolist().count(2) == 0  # a caption that was cut does not end
    assert batch["captions"][1, 0].tolist()[-3:] == [2, 0, 0]


def test_images_read_from_files_keep_their_captions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    source = with_captions(open_source(folder), tokenise)
    assert source.captions is not None
    vocabulary = Vocabulary.from_texts(text for texts in source.captions for text in texts)
    batch = image_caption_dataset(source, vocabulary, 8, max_length=20).__getitems__([3, 4, 1])
    assert batch["image"][:, 0, 0, 0].tolist() == [50, 20]
    assert [vocabulary.decode(captions[0].tolist()) for captions in batch["captions"]] == [CAPTIONS[5][0], "two"]


@pytest.mark.parametrize("layout", ["sidecar", "csv", "parquet", "coco"])
def test_every_layout_gives_the_same_captions(tmp_path: Path, layout: str) -> None:
    texts = {"a.png": ["Ein Käfer", "a bug 🐞"], "b.png": ["two bugs"]}
    for name in texts:
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    ref = str(tmp_path)
    if layout == "sidecar":
        for name, captions in texts.items():
            (tmp_path / name).with_suffix(".txt").write_text("\n".join(captions), encoding="utf-8")
    elif layout == "csv":
        rows = [f"{name},{text}" for name, captions in texts.items() for text in captions]
        (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows]), encoding="utf-8")
    elif layout == "parquet":
        images = [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name in texts]
        pq.write_table(pa.table({"image": images, "captions": list(texts.values())}), tmp_path / "train.parquet")
    else:
        images = [{"id": number, "file_name": name} for number, name in enumerate(texts)]
        captions_of = enumerate(texts.values())
        annotations = [{"image_id": number, "caption": text} for number, many in captions_of for text in many]
        (tmp_path / "all.json").write_text(json.dumps({"images": images, "annotations": annotations}))
        ref = f"coco:{tmp_path}"
    source = with_captions(open_source(ref), tokenise)
    assert source.captions == [tuple(captions) for captions in texts.values()]
    assert source.skipped == []


def blank_source(captions: list[tuple[str, ...]] | None) -> ImageSource:
    return ImageSource(
        name="blank",
        ids=[f"{row}" for row in range(3)],
        loader=lambda row: Image.new("RGB", (4, 4)),
        rows=np.arange(3),
        captions=captions,
    )


def test_sources_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match=r"'blank' has no captions; give them as NAME\.txt"):
        with_captions(blank_source(None), tokenise)
    with pytest.raises(DataError, match="none of the 3 images of 'blank' has a caption with a word in it"):
        with_captions(blank_source([(), ("",), ("!",)]), tokenise)


def test_caption_of_ten_thousand_words() -> None:
    source = with_captions(blank_source([("word " * 10_000,), ("a word",), ("word",)]), tokenise)
    assert source.captions is not None
    vocabulary = Vocabulary.from_texts(text for texts in source.captions for text in texts)
    table = CaptionTable.from_texts(source.captions, vocabulary, max_length=12)
    assert table.tokens.shape == (3, 12)
    assert table.cut == 1
    assert table.batch([0])["captions"][0, 0].tolist() == [1, *[4] * 11]


def test_pick_is_even_and_decided_by_the_generator() -> None:
    captions = torch.arange(3)[None, :, None].expand(6000, 3, 2)
    counts = torch.tensor([1, 2, 3]).repeat(2000)
    picked = pick_one(captions, counts, torch.Generator().manual_seed(0))
    assert picked.shape == (6000, 2)
    for count in (1, 2, 3):
        shares = torch.bincount(picked[counts == count, 0], minlength=3) / 2000
        assert shares[count:].sum() == 0
        assert float((shares[:count] - 1 / count).abs().max()) < 0.04
    assert torch.equal(picked, pick_one(captions, counts, torch.Generator().manual_seed(0)))
    assert not torch.equal(picked, pick_one(captions, counts, torch.Generator().manual_seed(1)))


def test_course_data_by_image(tmp_path: Path) -> None:
    arrays = write_course_coco(tmp_path)
    data = load_course_coco(tmp_path)
    vocabulary = Vocabulary.from_mapping(data.word_to_idx)
    dataset = course_caption_dataset(data.train, vocabulary, "train")
    assert len(dataset) == 60
    batch = dataset.__getitems__([7, 3])
    np.testing.assert_array_equal(batch["feature"].numpy(), arrays["train_features"][[7, 3]])
    for place, image in enumerate((7, 3)):
        own = arrays["train_captions"][arrays["train_image_idxs"] == image]
        np.testing.assert_array_equal(batch["captions"][place].numpy(), own[:, :6])
        assert not own[:, 6:].any()
        assert dataset.table.references(image) == tuple(vocabulary.decode(caption) for caption in own)
    assert vocabulary.idx_to_word == WORDS


def test_course_images_without_captions_are_listed(tmp_path: Path) -> None:
    arrays = write_course_coco(tmp_path)
    with h5py.File(tmp_path / "coco2014_captions.h5", "r+") as file:
        for split, images in (("train", 2), ("val", 1)):  # the first images lose their captions to the next
            file[f"{split}_image_idxs"][...] = np.maximum(file[f"{split}_image_idxs"][()], images)
    limits: list[dict[str, int]] = [{}, {"max_train": 7, "max_val": 3}]
    for limit in limits:
        splits = open_splits(tiny_config(f"course-coco:{tmp_path}", **limit))
        assert len(splits.train) == limit.get("max_train", 58)
        assert [row.id for row in splits.skipped] == ["train image 0", "train image 1", "val image 0"]
        assert isinstance(splits.train, FeatureCaptionDataset)
        for place, name in enumerate(splits.train.ids):
            feature = splits.train.__getitems__([place])["feature"][0]
            np.testing.assert_array_equal(feature.numpy(), arrays["train_features"][int(name.split()[-1])])


def test_references_lack_what_the_vocabulary_lacks() -> None:
    vocabulary = Vocabulary.from_texts(["a dog"])
    tokens = torch.tensor([vocabulary.encode("a black dog"), vocabulary.encode("a dog a")])
    assert CaptionTable(tokens, np.array([0, 2]), vocabulary).references(0) == ("a dog", "a dog a")


def test_patch_features_and_other_dtypes() -> None:
    vocabulary = Vocabulary.from_texts(["a b"])
    table = CaptionTable.from_texts([("a",), ("b", "a b")], vocabulary, 10)
    features = np.arange(2 * 5 * 3, dtype=np.float16).reshape(2, 5, 3)
    batch = FeatureCaptionDataset(features, table).__getitems__([1])
    assert batch["feature"].dtype == torch.float32
    assert batch["feature"].tolist() == features[1:].tolist()
    assert batch["captions"].tolist() == [[[1, 5, 2, 0], [1, 4, 5, 2]]]


def test_all_captions_with_their_images() -> None:
    captions = torch.arange(3 * 2 * 1).view(3, 2, 1)
    every, images = all_captions(captions, torch.tensor([1, 2, 1]))
    assert every[:, 0].tolist() == [0, 2, 3, 4]
    assert images.tolist() == [0, 1, 1, 2]
