"""The CLIP half of the course's last path: a network of open_clip, and objects that only have the two methods."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from icv83551 import clip, clip_dino
from icv83551.clip_dino import CLIPImageRetriever, clip_zero_shot_classifier, get_similarity_no_loop
from opsin.errors import ConfigError, OfflineError
from tests.encoders.clip_models import tiny_clip
from tests.encoders.test_openai import openai_tensors

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """Encodes an image as its mean colour, and a text as the colour whose token it has."""

    def __init__(self) -> None:
        self.tokens = {int(clip.tokenize(name)[0, 1]): rgb for name, rgb in COLOURS.items()}
        self.image_batches: list[tuple[int, ...]] = []

    def encode_image(self, images: Tensor) -> Tensor:
        self.image_batches.append(tuple(images.shape))
        return images.mean(dim=(2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        assert not tokens.is_floating_point()
        colours = [[self.tokens[token] for token in row if token in self.tokens] for row in tokens.tolist()]
        return torch.tensor([[sum(channel) for channel in zip(*found, strict=True)] for found in colours]).float()


def preprocess(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((4, 4)), dtype=np.float32)).permute(2, 0, 1)


def model_preprocess(image: Image.Image) -> Tensor:
    return preprocess(image.resize((32, 32))).repeat_interleave(8, 1).repeat_interleave(8, 2) / 255


def painted(*names: str) -> list[np.ndarray]:
    return [np.full((6, 9, 3), COLOURS[name], dtype=np.uint8) for name in names]


def test_zero_shot_classifier() -> None:
    images = painted("blue", "red", "green", "red")
    classes = ["something red", "something green", "something blue"]
    predicted = clip_zero_shot_classifier(ColourModel(), preprocess, images, classes, "cpu")
    assert predicted == ["something blue", "something red", "something green", "something red"]


def test_retriever_encodes_images_once() -> None:
    model = ColourModel()
    mixed = np.full((6, 9, 3), (200, 120, 0), dtype=np.uint8)
    retriever = CLIPImageRetriever(model, preprocess, [*painted("blue", "green"), mixed, *painted("red")], "cpu")
    assert retriever.retrieve("red") == [3, 2]
    assert retriever.retrieve("green", k=3)[:2] == [1, 2]
    assert len(retriever.retrieve("blue", k=99)) == 4
    assert model.image_batches == [(4, 3, 4, 4)]


def test_network_that_reads_fewer_tokens() -> None:
    model = tiny_clip()
    images = painted("red", "green", "blue")
    retriever = CLIPImageRetriever(model, model_preprocess, images, "cpu")
    query = "a query of many more words than would fit into the sixteen tokens that this small network reads"
    assert sorted(retriever.retrieve(query, k=3)) == [0, 1, 2]


def test_images_that_are_not_there() -> None:
    """`image_from_url` gives None for what it could not fetch."""
    with pytest.raises(ValueError, match="image 1 is None"):
        clip_zero_shot_classifier(ColourModel(), preprocess, [*painted("red"), None], ["red"], "cpu")  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no images"):
        CLIPImageRetriever(ColourModel(), preprocess, [], "cpu")


def test_cells_of_the_notebook(tmp_path: Path) -> None:
    """`clip.load` of a state dict, then encoding and comparing as the notebook does."""
    torch.save(openai_tensors(tiny_clip()), tmp_path / "clip.pt")
    clip_model, clip_preprocess = clip.load(str(tmp_path / "clip.pt"), device="cpu")
    images = painted("red", "green", "blue")
    tokens = clip.tokenize(["red", "a green thing"], context_length=16).to("cpu")
    with torch.no_grad():
        text_features = clip_model.encode_text(tokens)
        processed = [clip_preprocess(Image.fromarray(image)).unsqueeze(0) for image in images]
        image_features = clip_model.encode_image(torch.cat(processed, dim=0))
    similarity = get_similarity_no_loop(text_features, image_features)
    expected = torch.nn.functional.cosine_similarity(text_features[:, None], image_features[None], dim=2)
    torch.testing.assert_close(similarity, expected)


def test_tokens() -> None:
    """Those that the package `clip` documents for this text, between its start and end."""
    tokens = clip.tokenize(["hello world!", ""])
    assert tokens.shape == (2, 77) and not tokens.is_floating_point()
    assert tokens[0, :6].tolist() == [49406, 3306, 1002, 256, 49407, 0]
    assert tokens[1, :3].tolist() == [49406, 49407, 0]
    assert torch.equal(clip.tokenize("hello world!"), tokens[:1])
    with pytest.raises(RuntimeError, match="too long for context length 77"):
        clip.tokenize("word " * 80)
    cut = clip.tokenize("word " * 80, truncate=True)
    assert int(cut[0, -1]) == 49407


def test_weights_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "ViT-B/32" in clip.available_models()
    with pytest.raises(OfflineError, match="cannot be downloaded now"):
        clip.load("ViT-B/32", device="cpu")
    with pytest.raises(ConfigError, match="there are RN50, "):
        clip.load("ViT-B/33", device="cpu")


def test_star_import_and_signatures() -> None:
    names: dict = {}
    exec("from icv83551.clip_dino import *", names)
    assert {"CLIPImageRetriever", "clip_zero_shot_classifier", "get_similarity_no_loop"} <= names.keys()

    def parameters(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert parameters(clip_dino.get_similarity_no_loop) == ["text_features", "image_features"]
    model_and_images = ["clip_model", "clip_preprocess", "images"]
    assert parameters(clip_dino.clip_zero_shot_classifier) == [*model_and_images, "class_texts", "device"]
    assert parameters(clip_dino.CLIPImageRetriever) == [*model_and_images, "device"]
    assert inspect.signature(clip_dino.CLIPImageRetriever.retrieve).parameters["k"].default == 2
