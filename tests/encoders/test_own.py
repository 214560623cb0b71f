"""A model of opsin that encodes is its own encoder: by name or by class, it is one to what keeps vectors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.classification.config import ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent
from opsin.encoders import load
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.features import source_vectors
from opsin.encoders.own import EncoderModel
from opsin.errors import CheckpointError
from opsin.images.preprocessing import Preprocessing
from opsin.pretrained import load_model
from opsin.search.index import ImageIndex
from opsin.sources.opening import open_source

from .test_encoders import pictures


def small_classifier(directory: Path) -> Path:
    torch.manual_seed(0)
    content = ClassifierContent(
        model=ViTConfig(embed_dim=16, num_layers=1, num_heads=2, dim_feedforward=16),
        class_names=("a", "b"),
        preprocessing=Preprocessing(image_size=8),
    )
    return Classifier(Classifier.build(content), content).save_pretrained(directory)


@pytest.fixture(params=["cifar10-simclr", "emoji-clip", "classifier"])
def ref(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model, by a relative path where it is no model of the package."""
    if request.param != "classifier":
        return str(request.param)
    monkeypatch.chdir(tmp_path)
    return os.path.relpath(small_classifier(tmp_path / "model"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for index, picture in enumerate(pictures(3)):
        picture.save(tmp_path / "images" / f"{index}.png")
    return tmp_path / "images"


def by_class(ref: str) -> EncoderModel:
    model = load_model(ref, "cpu")
    assert isinstance(model, EncoderModel)
    return model


def test_the_name_and_the_class_give_the_same_encoder(ref: str) -> None:
    ours, named = by_class(ref), load(ref, "cpu")
    assert type(named) is type(ours)
    assert (named.name, named.fingerprint, named.preparation()) == (ours.name, ours.fingerprint, ours.preparation())
    assert torch.equal(named.encode_image(pictures()), ours.encode_image(pictures()))
    assert not any(weight.requires_grad for weight in ours.model.parameters())


def test_an_index_made_by_name_opens_with_the_object_and_the_other_way_round(
    ref: str, folder: Path, tmp_path: Path
) -> None:
    ours = by_class(ref)
    ImageIndex.create(tmp_path / "named", ref, device="cpu").update(folder)
    ImageIndex.create(tmp_path / "given", ours).update(folder)
    query = Image.open(folder / "1.png")
    opened = ImageIndex.open(tmp_path / "named", ours), ImageIndex.open(tmp_path / "given", device="cpu")
    first, second = ({hit.id: hit.cosine for hit in index.search(image=query, k=3).hits} for index in opened)
    assert first == second and first["1.png"] == pytest.approx(1, abs=1e-3) and len(first) == 3


def test_features_are_shared_by_the_cache(ref: str, folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    first = source_vectors(source, by_class(ref))[1]
    named = load(ref, "cpu")
    named._pooled = None  # type: ignore[method-assign, assignment] # whoever encodes again now fails
    assert torch.equal(source_vectors(source, named)[1], first)
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 1


def test_weights_that_make_no_vectors_do_not_count(tmp_path: Path) -> None:
    classifier = Classifier.from_pretrained(small_classifier(tmp_path / "model"), "cpu")
    simclr = by_class("cifar10-simclr")
    assert simclr.without_projection().fingerprint == simclr.fingerprint  # type: ignore[attr-defined]
    before = classifier.fingerprint
    torch.nn.init.zeros_(classifier.model.head.bias)  # type: ignore[arg-type]
    assert classifier.fingerprint == before
    torch.nn.init.zeros_(classifier.model.norm.bias)  # type: ignore[arg-type]
    torch.nn.init.constant_(classifier.model.norm.weight, 2.0)  # type: ignore[arg-type]
    assert classifier.fingerprint != before


def test_an_index_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    model = small_classifier(tmp_path / "model")
    ImageIndex.create(tmp_path / "index", str(model), device="cpu").update(folder)
    changed = Classifier.from_pretrained(model, "cpu")
    torch.nn.init.constant_(changed.model.norm.weight, 2.0)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has other weights now"):
        ImageIndex.open(tmp_path / "index", changed)


def test_the_classifier_of_photographs_is_the_encoder_imagenet() -> None:
    classifier, encoder = Classifier.from_pretrained("imagenet", "cpu"), load("imagenet", "cpu")
    assert isinstance(classifier, NetworkEncoder)
    assert (classifier.name, classifier.fingerprint) == (encoder.name, encoder.fingerprint)
    image = [np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)]
    assert torch.equal(classifier.encode_image(image), encoder.encode_image(image))
