"""A text tower for the vectors of an image encoder that is not trained (LiT)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from opsin.cli.main import main
from opsin.clip.config import ImageTowerConfig, TextTowerConfig
from opsin.clip.inference import ClipEncoder
from opsin.clip.model import BagOfWords, LockedTower
from opsin.clip.train import train_clip
from opsin.clip.words import PROTOTYPE, class_teacher, class_texts, prototypes, word_vectors
from opsin.data.captioned import read_texts
from opsin.data.tokenizer import BpeTokenizer
from opsin.encoders import load
from opsin.encoders.base import DenseEncoder, ImageTextEncoder
from opsin.encoders.default import FOR_EMOJI, FOR_PHOTOGRAPHS, default_image_text
from opsin.encoders.imagenet import ImagenetEncoder
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.sources.opening import open_source

from .conftest import COLOURS, NO_CHANGES, tiny_config

WORDS = TextTowerConfig(kind="words", vocab_size=300, max_length=16, embed_dim=16)


@pytest.fixture(scope="module")
def imagenet() -> ImagenetEncoder:
    encoder = load("imagenet", "cpu", "32")
    assert isinstance(encoder, ImagenetEncoder)
    return encoder


@pytest.fixture(scope="module")
def locked_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("locked") / "run"
    config = tiny_config(
        folder, image_encoder="imagenet", lock_image=True, text=WORDS, augment=NO_CHANGES, max_steps=60, precision="32"
    )
    train_clip(config, directory)
    return directory


def test_a_bag_of_words_has_no_order() -> None:
    torch.manual_seed(0)
    tower = BagOfWords(20, embed_dim=4)
    torch.nn.init.normal_(tower.importance.weight)
    text = torch.tensor([[1, 5, 9, 13]])
    expected = torch.zeros(4)
    weights = torch.nn.functional.softplus(tower.importance.weight[text[0], 0])
    for token, weight in zip(text[0], weights, strict=True):
        expected += weight / weights.sum() * tower.embedding.weight[token]
    torch.testing.assert_close(tower(text)[0], expected)
    torch.testing.assert_close(tower(torch.tensor([[9, 13, 1, 5, 0, 0]]))[0], expected)
    assert tower(torch.zeros(1, 3, dtype=torch.int64)).abs().max() == 0


def test_a_locked_tower_standardizes() -> None:
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) ** 3 + 2
    tower = LockedTower(8)
    tower.standardize(vectors)
    standard = tower(vectors)
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.ones(8))


def test_words_in_like_company_have_like_vectors() -> None:
    animals, places = ["dog", "cat", "pup"], ["beach", "shore", "coast"]
    texts = [f"{animal} fur paws" for animal in animals * 5] + [f"{place} sand waves" for place in places * 5]
    tokenizer = BpeTokenizer.train(texts, 400)
    vectors = torch.nn.functional.normalize(word_vectors(tokenizer, texts, 8), dim=1)
    token = {word: tokenizer.encode_word(word)[0] for word in (*animals, *places)}
    assert vectors[token["dog"]] @ vectors[token["pup"]] > 0.9
    assert vectors[token["dog"]] @ vectors[token["coast"]] < 0.5
    assert vectors[:2].abs().max() == 0  # padding and the start of a text say nothing


def test_class_names_are_taught_by_what_the_encoder_thinks(imagenet: ImagenetEncoder) -> None:
    photos = imagenet.encode_image(load_sample_images().images, normalize=False)
    own = imagenet.scores_of(prototypes(imagenet, photos.mean(dim=0))).softmax(dim=1).diagonal()
    torch.testing.assert_close(own, torch.full((1000,), PROTOTYPE), atol=0.01, rtol=0)
    texts = [text for text, _, _ in class_texts()]
    teacher = class_teacher(imagenet, BpeTokenizer.train(texts, 500), photos)
    torch.testing.assert_close(teacher.fits.sum(dim=1), torch.ones(len(texts)))
    dog, palace = (teacher.fits[texts.index(text)] for text in ("dog", "palace"))
    assert dog[2 + 151 : 2 + 269].sum() > 0.8  # the prototypes of the 118 breeds, after the two photographs
    assert palace[0] > 100 * palace[1]  # a Chinese palace, and a flower


def test_a_locked_run_is_an_encoder_of_images_and_texts(locked_run: Path, folder: Path) -> None:
    encoder = load(str(locked_run), "cpu", "32")
    assert isinstance(encoder, ClipEncoder) and isinstance(encoder, ImageTextEncoder)
    sizes = {path.name: path.stat().st_size for path in (locked_run / "model").iterdir()}
    assert sizes["model.safetensors"] < 500_000  # without the image encoder
    images = [folder / f"{name}0.png" for name in COLOURS]
    cosines = encoder.encode_image(images) @ encoder.encode_text([f"{name} picture" for name in COLOURS]).T
    right = (cosines.argmax(dim=1) == torch.arange(len(COLOURS))).float().mean()
    assert right > 0.5  # a quarter by chance
    imagenet = load("imagenet", "cpu", "32")
    features = encoder.model.encode_image(imagenet.encode_image(images, normalize=False))
    torch.testing.assert_close(encoder.encode_image(images), torch.nn.functional.normalize(features))
    assert encoder.fingerprint != imagenet.fingerprint
    assert isinstance(imagenet, DenseEncoder)
    (own,), (dense,) = encoder.encode_dense(images[:1]), imagenet.encode_dense(images[:1])
    torch.testing.assert_close(own.tokens, dense.tokens)


def test_it_is_evaluated_as_during_training(locked_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads((locked_run / "model" / "config.json").read_text())["metrics"]
    assert main(["evaluate", str(locked_run), "--json"]) == 0
    directions = json.loads(capsys.readouterr().out)["styles"]["all"]
    mean = sum(scores["recall_at_5"] for scores in directions.values()) / 2
    assert mean == pytest.approx(metrics["val_recall_at_5"], abs=0.1)  # the cache rounds, and equal images tie
    assert main(["profile", str(locked_run)]) == 0
    assert "a vector of imagenet, which is not counted" in capsys.readouterr().out


def test_another_image_encoder_under_its_name_is_refused(locked_run: Path, tmp_path: Path) -> None:
    copy = ClipEncoder.from_pretrained(locked_run, "cpu").save_pretrained(tmp_path / "copy")
    content = json.loads((copy / "config.json").read_text())
    content["encoder_fingerprint"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(content))
    encoder = ClipEncoder.from_pretrained(copy, "cpu")
    assert encoder.encode_text(["red"]).shape == (1, 16)  # texts need no image encoder
    with pytest.raises(CheckpointError, match="imagenet is not the one that the model was trained with"):
        encoder.encode_image([Image.new("RGB", (9, 9))])


def test_settings_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--image-encoder and --lock-image go together"):
        tiny_config(folder, image_encoder="imagenet")
    with pytest.raises(ConfigError, match="--class-names needs the classes of an image encoder"):
        tiny_config(folder, class_names=True)
    config = tiny_config(folder, image_encoder="cifar10-simclr", lock_image=True, class_names=True, max_steps=1)
    with pytest.raises(ConfigError, match="--class-names is for the encoder imagenet, not for cifar10-simclr"):
        train_clip(dataclasses.replace(config, text=WORDS, image=ImageTowerConfig()), tmp_path / "run")


def test_further_texts_come_from_lines_or_json_lines(tmp_path: Path) -> None:
    lines, rows, bad = tmp_path / "texts.txt", tmp_path / "texts.jsonl", tmp_path / "bad.jsonl"
    lines.write_text("\ufeffa dog runs\r\n\r\n a cat \n", encoding="utf-8")
    rows.write_text('{"captions": ["a dog", "a cat"]}\n\n{"captions": ["a cow"]}\n', encoding="utf-8")
    bad.write_text('{"texts": ["a dog"]}\n', encoding="utf-8")
    assert read_texts(str(lines)) == ["a dog runs", "a cat"]
    assert read_texts(str(rows)) == ["a dog", "a cat", "a cow"]
    with pytest.raises(DataError, match="a list `captions` in each line"):
        read_texts(str(bad))
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(str(tmp_path / "missing.txt"))


def test_the_default_model_is_the_one_for_the_images() -> None:
    emoji = open_source("emoji", labels=False)
    assert default_image_text(len(emoji), emoji.load) == FOR_EMOJI
    photos = load_sample_images().images
    parts = [photo[top : top + 200, left : left + 200] for photo in photos for top in (0, 200) for left in (0, 300)]
    assert default_image_text(len(parts), lambda row: np.ascontiguousarray(parts[row])) == FOR_PHOTOGRAPHS

    def broken(row: int) -> Image.Image:
        raise DataError("cannot be read")

    assert default_image_text(3, broken) == FOR_PHOTOGRAPHS
