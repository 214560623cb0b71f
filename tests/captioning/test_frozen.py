"""Captioners on a frozen encoder: what it gives is computed once, and the model refers to it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin import encoders
from opsin.captioning.evaluation import evaluate_captioner
from opsin.captioning.inference import Captioner
from opsin.captioning.splits import open_splits
from opsin.captioning.train import train_captioner
from opsin.classification.config import ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.encoders.features import image_features
from opsin.encoders.fingerprint import fingerprint
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.images.preprocessing import Preprocessing
from opsin.training.run import TrainReport

from .conftest import COLOURS, tiny_config


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that has learned nothing, with large features, on which a decoder learns sooner."""
    torch.manual_seed(0)
    shape = {"patch_size": 8, "embed_dim": 32, "num_layers": 1, "num_heads": 2, "dim_feedforward": 32}
    # Untrained, learned positions are small; sinusoidal ones would drown the pixels.
    config = ViTConfig(**shape, norm="pre", positions="learned")
    preprocessing = Preprocessing(image_size=24, std=(0.3, 0.3, 0.3))
    model = build_model(config, 24, 2)
    torch.nn.init.constant_(model.norm.weight, 10.0)  # type: ignore[arg-type]
    content = ClassifierContent(model=config, class_names=("a", "b"), preprocessing=preprocessing)
    classifier = Classifier(model, content)
    return classifier.save_pretrained(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="module")
def frozen_run(
    captioned_folder: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainReport]:
    directory = tmp_path_factory.mktemp("runs") / "frozen"
    config = tiny_config(captioned_folder, frozen_encoder=str(encoder), test_fraction=0.2, shift=0, max_steps=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSIN_CACHE", str(directory.parent / "cache"))
        return directory, train_captioner(config, directory)


@pytest.fixture(autouse=True)
def cache(frozen_run: tuple[Path, TrainReport], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSIN_CACHE", str(frozen_run[0].parent / "cache"))
    return frozen_run[0].parent / "cache" / "features"


def test_learns_on_frozen_features(frozen_run: tuple[Path, TrainReport]) -> None:
    directory, report = frozen_run
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_loss"] < np.log(13) / 2
    assert report.metrics["test_loss"] < np.log(13) / 2
    assert {row.id for row in report.skipped} == {"silent.png", "broken.png"}
    captioner = Captioner.from_pretrained(directory, device="cpu")
    assert captioner.model.encoder is None
    assert captioner.content.feature_dim == 32
    assert captioner.takes_images


def test_captions_images_with_the_encoder_it_refers_to(frozen_run: tuple[Path, TrainReport], encoder: Path) -> None:
    captioner = Captioner.from_pretrained(frozen_run[0], device="cpu")
    assert captioner.content.frozen_encoder == frozen_run[1].needs == str(encoder)
    assert f"through the encoder `{encoder}`" in (frozen_run[0] / "model" / "README.md").read_text()
    images = [Image.new("RGB", (30, 20), colour) for colour in COLOURS.values()]
    captions = captioner.caption(images, attention=True, batch_size=2)
    for caption in captions:
        assert caption.attention is not None
        assert caption.attention.shape == (len(caption.words), 3, 3)
    features, _ = image_features(captioner.load_frozen_encoder(), images)
    again = captioner.caption_features(features)
    assert [caption.text for caption in again] == [caption.text for caption in captions]
    copy = Captioner.from_pretrained(captioner.save_pretrained(frozen_run[0].parent / "copy"), device="cpu")
    assert [caption.text for caption in copy.caption(images)] == [caption.text for caption in captions]


def test_features_are_computed_once_a_split(
    frozen_run: tuple[Path, TrainReport], captioned_folder: Path, cache: Path
) -> None:
    before = sorted(path.name for path in cache.glob("*.npy"))
    assert len(before) == 3  # training, validation, test
    captioner = Captioner.from_pretrained(frozen_run[0], device="cpu")
    evaluation = evaluate_captioner(captioner)
    assert evaluation.split == "test"
    assert evaluation.result.metrics.exact_match == frozen_run[1].metrics["test_exact_match"]
    images = [Image.open(captioned_folder / name).convert("RGB") for name in evaluation.ids]
    for place, image in enumerate(images):
        np.testing.assert_array_equal(evaluation.image(place), image)
    expected = [caption.log_prob for caption in captioner.caption(images)]
    assert [caption.log_prob for caption in evaluation.result.captions] == pytest.approx(expected, rel=2e-2)
    assert sorted(path.name for path in cache.glob("*.npy")) == before


def test_same_images_as_without_a_frozen_encoder(captioned_folder: Path, encoder: Path) -> None:
    config = tiny_config(captioned_folder, test_fraction=0.2)
    own, frozen = open_splits(config), open_splits(dataclasses.replace(config, frozen_encoder=str(encoder)))
    assert own.vocabulary == frozen.vocabulary
    for split in ("train", "val", "test"):
        first, second = own.datasets[split], frozen.datasets[split]
        assert len(first) == len(second)
        assert [texts for texts in first.table.texts if texts != ("a broken picture",)] == second.table.texts


def test_encoder_that_is_gone(frozen_run: tuple[Path, TrainReport], tmp_path: Path) -> None:
    """The model loads, and says what it lacks when it is to look at an image."""
    copy = Captioner.from_pretrained(frozen_run[0]).save_pretrained(tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    content["frozen_encoder"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(content))
    captioner = Captioner.from_pretrained(copy, device="cpu")
    with pytest.raises(CheckpointError, match=r"there is no model '.*gone'"):
        captioner.caption([Image.new("RGB", (8, 8))])


def test_encoder_that_was_trained_again(
    frozen_run: tuple[Path, TrainReport], captioned_folder: Path, encoder: Path, tmp_path: Path
) -> None:
    """Its features have the same width, and the decoder never saw any of them."""
    own = shutil.copytree(encoder, tmp_path / "encoder")
    config = tiny_config(captioned_folder, frozen_encoder=str(own), shift=0, max_steps=2)
    train_captioner(config, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert content["encoder_fingerprint"] == fingerprint(encoders.load(str(own), "cpu"))
    retrained = Classifier.from_pretrained(own, device="cpu")
    torch.nn.init.constant_(retrained.model.norm.weight, 11.0)  # type: ignore[arg-type]
    retrained.save_pretrained(own)
    captioner = Captioner.from_pretrained(tmp_path / "run", device="cpu")
    with pytest.raises(CheckpointError, match=r"encoder is not the one that the model was trained with: its finger"):
        captioner.caption([Image.new("RGB", (8, 8))])
    with pytest.raises(CheckpointError, match="the one that the model was trained with"):
        evaluate_captioner(captioner)
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, max_steps=4))
    with pytest.raises(CheckpointError, match="the frozen encoder is not the one that the run in .* began with"):
        train_captioner(longer, tmp_path / "run", resume=True)
    del content["encoder_fingerprint"]  # as in models of before
    (tmp_path / "run" / "model" / "config.json").write_text(json.dumps(content))
    assert len(Captioner.from_pretrained(tmp_path / "run", device="cpu").caption([Image.new("RGB", (8, 8))])) == 1


def test_precision_is_that_of_the_frozen_encoder_too(
    frozen_run: tuple[Path, TrainReport], captioned_folder: Path, encoder: Path
) -> None:
    image = [Image.new("RGB", (24, 24), "red")]
    exact, rough = (
        Captioner.from_pretrained(frozen_run[0], device="cpu", precision=precision).load_frozen_encoder()
        for precision in ("32", "bf16")
    )
    assert not torch.equal(exact.encode_image(image), rough.encode_image(image))
    features = [
        open_splits(tiny_config(captioned_folder, frozen_encoder=str(encoder), precision=precision))
        for precision in ("32", "bf16")
    ]
    first, second = (splits.train.__getitems__([0])["feature"] for splits in features)
    assert not torch.equal(first, second)


def test_a_captioner_is_no_encoder(frozen_run: tuple[Path, TrainReport], captioned_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="'captioner', which is no encoder; give a classifier"):
        open_splits(tiny_config(captioned_folder, frozen_encoder=str(frozen_run[0])))


def test_model_of_images_and_texts_as_encoder(captioned_folder: Path) -> None:
    splits = open_splits(tiny_config(captioned_folder, frozen_encoder="emoji-clip"))
    assert splits.feature_dim == splits.train.__getitems__([0])["feature"].shape[2]


def test_features_instead_of_images_need_no_encoder(frozen_run: tuple[Path, TrainReport], encoder: Path) -> None:
    with pytest.raises(ConfigError, match="leave frozen_encoder out"):
        open_splits(tiny_config("course-coco:x", frozen_encoder=str(encoder)))
    with pytest.raises(DataError, match="takes images, and 'course-coco:x' holds features"):
        evaluate_captioner(Captioner.from_pretrained(frozen_run[0], device="cpu"), "course-coco:x")
