"""The course's captioning notebook, sections 2, 9 and 10, on a small data set in the layout of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from icv83551 import coco_utils
from icv83551.captioning_solver_transformer import CaptioningSolverTransformer
from icv83551.classifiers.transformer import CaptioningTransformer
from icv83551.coco_utils import decode_captions, load_coco_data, sample_coco_minibatch
from opsin.errors import DataError
from tests.course_data import WORDS, write_course_coco

KEYS = [
    "train_captions",
    "train_image_idxes",
    "val_captions",
    "val_image_idxes",
    "train_features",
    "val_features",
    "idx_to_word",
    "word_to_idx",
    "train_urls",
    "val_urls",
]


def test_load_in_the_notebooks_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = write_course_coco(tmp_path)
    data = load_coco_data(tmp_path)
    assert capsys.readouterr().out == f"base dir  {tmp_path}\n"
    assert list(data) == KEYS
    np.testing.assert_array_equal(data["train_image_idxes"], arrays["train_image_idxs"])
    assert data["train_features"].shape == (60, 512)
    assert load_coco_data(tmp_path, pca_features=False)["train_features"].shape == (60, 4096)
    assert isinstance(data["idx_to_word"], list)
    assert isinstance(data["word_to_idx"], dict)


def test_default_directory_is_in_the_package() -> None:
    assert coco_utils.BASE_DIR.parts[-3:] == ("icv83551", "datasets", "coco_captioning")
    if not coco_utils.BASE_DIR.exists():
        with pytest.raises(DataError, match="lacks the file"):
            load_coco_data()


def test_max_train_draws_captions_with_their_images(tmp_path: Path) -> None:
    arrays = write_course_coco(tmp_path)
    np.random.seed(231)
    data = load_coco_data(tmp_path, max_train=50)
    np.random.seed(231)
    chosen = np.random.randint(120, size=50)
    np.testing.assert_array_equal(data["train_captions"], arrays["train_captions"][chosen])
    np.testing.assert_array_equal(data["train_image_idxes"], arrays["train_image_idxs"][chosen])
    assert len(data["train_features"]) == len(data["train_urls"]) == 60
    assert len(data["val_captions"]) == 40


def test_minibatch_rows_belong_together(tmp_path: Path) -> None:
    arrays = write_course_coco(tmp_path)
    data = load_coco_data(tmp_path)
    for split in ("train", "val"):
        np.random.seed(5)
        captions, features, urls = sample_coco_minibatch(data, split=split, batch_size=7)
        np.random.seed(5)
        chosen = np.random.choice(len(arrays[f"{split}_captions"]), 7)
        images = arrays[f"{split}_image_idxs"][chosen]
        np.testing.assert_array_equal(captions, arrays[f"{split}_captions"][chosen])
        np.testing.assert_array_equal(features, arrays[f"{split}_features"][images])
        assert urls.tolist() == [arrays[f"{split}_urls"][image] for image in images]
    assert len(sample_coco_minibatch(data)[0]) == 100


def test_decode() -> None:
    rows = np.array([[1, 4, 5, 3, 2, 0, 4], [0, 4, 0, 6, 0, 0, 0]])
    assert decode_captions(rows, WORDS) == ["<START> a red <UNK> <END>", "a green"]
    assert decode_captions(rows[0], WORDS) == "<START> a red <UNK> <END>"
    assert decode_captions(rows[:1], WORDS) == ["<START> a red <UNK> <END>"]
    assert decode_captions(rows[:0], WORDS) == []


@pytest.fixture
def small(tmp_path: Path) -> tuple[CaptioningTransformer, dict]:
    write_course_coco(tmp_path)
    torch.manual_seed(231)
    np.random.seed(231)
    data = load_coco_data(tmp_path, max_train=50)
    model = CaptioningTransformer(
        data["word_to_idx"], input_dim=data["train_features"].shape[1], wordvec_dim=32, num_heads=2, max_length=30
    )
    return model, data


def test_loss_counts_masked_places_in_the_divisor(small: tuple[CaptioningTransformer, dict]) -> None:
    solver = CaptioningSolverTransformer(*small, idx_to_word=WORDS)
    generator = np.random.default_rng(0)
    scores, targets = generator.normal(size=(3, 4, 5)), generator.integers(5, size=(3, 4))
    mask = targets != 0
    total = 0.0
    for row in range(3):
        for place in range(4):
            probs = np.exp(scores[row, place]) / np.exp(scores[row, place]).sum()
            total -= np.log(probs[targets[row, place]]) * mask[row, place]
    loss = solver.transformer_temporal_softmax_loss(
        torch.from_numpy(scores), torch.from_numpy(targets), torch.from_numpy(mask)
    )
    assert float(loss) == pytest.approx(total / 12)


def test_printed_lines(small: tuple[CaptioningTransformer, dict], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    solver = CaptioningSolverTransformer(*small, idx_to_word=WORDS, num_epochs=11, batch_size=24, print_every=10)
    solver.train()
    assert len(solver.loss_history) == 22
    first, eleventh, last = (solver.loss_history[step] for step in (0, 10, 20))
    assert capsys.readouterr().out.splitlines() == [
        f"(Iteration 1 / 22) loss: {first:.6f}",
        f"(Iteration 11 / 22) loss: {eleventh:.6f}",
        f"(Iteration 21 / 22) loss: {last:.6f}",
    ]
    assert last < first


def test_fewer_captions_than_a_batch_still_train(
    small: tuple[CaptioningTransformer, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    solver = CaptioningSolverTransformer(*small, idx_to_word=WORDS, num_epochs=2, verbose=False)
    solver.train()
    assert len(solver.loss_history) == 2
    assert capsys.readouterr().out == ""


def test_unknown_option_is_an_error(small: tuple[CaptioningTransformer, dict]) -> None:
    with pytest.raises(TypeError, match="update_rule"):
        CaptioningSolverTransformer(*small, idx_to_word=WORDS, update_rule="adam")  # type: ignore[call-arg]


def test_fifty_captions_are_learned_by_heart(tmp_path: Path) -> None:
    """The notebook's limits, with a narrower model to be quick: 200 steps of Adam to a loss below 0.05."""
    write_course_coco(tmp_path)
    torch.manual_seed(231)
    np.random.seed(231)
    data = load_coco_data(tmp_path, max_train=50)
    # One caption an image, or the images of two could not be told apart by their features.
    data["train_features"] = data["train_features"] + np.random.randn(60, 512).astype(np.float32)
    _, first = np.unique(data["train_image_idxes"], return_index=True)
    data["train_captions"], data["train_image_idxes"] = data["train_captions"][first], data["train_image_idxes"][first]
    transformer = CaptioningTransformer(
        word_to_idx=data["word_to_idx"], input_dim=512, wordvec_dim=64, num_heads=2, num_layers=2, max_length=30
    )
    solver = CaptioningSolverTransformer(
        transformer, data, idx_to_word=data["idx_to_word"], num_epochs=200, batch_size=25, verbose=False
    )
    solver.train()
    assert solver.loss_history[-1] < 0.05
    assert transformer.training
    written = decode_captions(transformer.sample(data["train_features"][data["train_image_idxes"]]), WORDS)
    expected = [text.removeprefix("<START> ") for text in decode_captions(data["train_captions"], WORDS)]
    assert written == expected
