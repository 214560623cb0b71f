"""Encoders of images and texts: open_clip's models from references, directories and the Hub's cache."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import threading
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import nn

from opsin.encoders import DenseEncoder, ImageTextEncoder, TextEncoder, load
from opsin.encoders.features import source_features
from opsin.encoders.loading import load_image_text
from opsin.encoders.open_clip import OpenClipEncoder, wrap
from opsin.encoders.timm import TimmEncoder
from opsin.errors import CheckpointError, ConfigError, DataError, MissingExtraError, OfflineError
from opsin.sources.opening import open_source

from .clip_models import save_directory, tiny_clip
from .test_encoders import CPU, pictures

TEXTS = ["a dog", "", "zwölf Boxkämpfer 🥊 " * 20]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_clip()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSIN_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def in_full_precision(encoder: OpenClipEncoder) -> OpenClipEncoder:
    encoder.precision = "32"
    return encoder


def expected_texts(model: nn.Module, texts: list[str]) -> torch.Tensor:
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    with torch.no_grad():
        return model.encode_text(tokens)


def test_both_halves(model: nn.Module) -> None:
    """What open_clip itself gives for the same texts and images."""
    encoder = in_full_precision(wrap("open_clip:x/y", model, CPU))
    assert isinstance(encoder, TextEncoder) and isinstance(encoder, ImageTextEncoder)
    expected = expected_texts(model, TEXTS)
    torch.testing.assert_close(encoder.encode_text(TEXTS, normalize=False), expected)
    normal = encoder.encode_text(text for text in TEXTS)
    torch.testing.assert_close(normal, expected / expected.norm(dim=1, keepdim=True))
    assert (normal.dtype, normal.device.type) == (torch.float32, "cpu")
    transform = open_clip.image_transform(32, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.25,) * 3)
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures()]))
    torch.testing.assert_close(encoder.encode_image(pictures(), normalize=False), images)
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.exp()))


@pytest.mark.parametrize("half", ["image", "text"])
def test_attention_gives_the_same_in_low_precision_and_reads_contiguous_tokens(half: str, model: nn.Module) -> None:
    """What torch multiplies by the weights of queries, keys and values lies in memory as it is read; with gaps, it
    would be multiplied by a copy of the weights for each token."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = images if half == "image" else open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = getattr(copy.deepcopy(model), f"encode_{half}")(inputs)
    encoder = wrap("open_clip:x/y", copy.deepcopy(model), CPU)
    seen = []
    for module in encoder.model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].transpose(0, 1).is_contiguous()))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(getattr(encoder.model, f"encode_{half}")(inputs), expected)
    assert seen and all(seen)


def test_many_texts_go_through_in_batches(model: nn.Module) -> None:
    encoder = in_full_precision(wrap("open_clip:x/y", model, CPU))
    texts = [f"number {index}" for index in range(70)]
    torch.testing.assert_close(encoder.encode_text(texts, normalize=False), expected_texts(model, texts))


def test_what_is_no_list_of_texts(model: nn.Module) -> None:
    encoder = wrap("open_clip:x/y", model, CPU)
    with pytest.raises(ValueError, match="at least one text"):
        encoder.encode_text([])
    with pytest.raises(TypeError, match=r"\['a dog'\]"):
        encoder.encode_text("a dog")


def test_images_are_prepared_in_threads_and_in_order(model: nn.Module, tmp_path: Path) -> None:
    """Also where a broken one stands among the images of a later batch."""
    encoder = in_full_precision(wrap("open_clip:x/y", model, CPU))
    threads = set()
    original = encoder.preprocess
    encoder.preprocess = lambda image: (threads.add(threading.get_ident()), original(image))[1]
    many = pictures(70)
    together = encoder.encode_image(iter(many))
    assert threading.get_ident() not in threads
    for index in (0, 31, 32, 69):
        torch.testing.assert_close(together[index : index + 1], encoder.encode_image([many[index]]))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        encoder.encode_image([*many, tmp_path / "broken.png", *many])


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_directory_of_open_clip(model: nn.Module, tmp_path: Path, weights: str) -> None:
    directory = save_directory(tmp_path / "model", model, weights)
    encoder = load_image_text(str(directory), device="cpu", precision="32")
    torch.testing.assert_close(encoder.encode_text(TEXTS, normalize=False), expected_texts(model, TEXTS))
    original = in_full_precision(wrap("x", model, CPU))
    torch.testing.assert_close(encoder.encode_image(pictures()), original.encode_image(pictures()))
    assert isinstance(encoder, DenseEncoder)


def test_repository_in_the_cache_of_the_hub(model: nn.Module, hub_cache: Path) -> None:
    repository = hub_cache / "models--org--name"
    save_directory(repository / "snapshots" / ("0" * 40), model)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    encoder = load_image_text("hf-hub:org/name", device="cpu", precision="32")
    assert encoder.name == "hf-hub:org/name"
    torch.testing.assert_close(encoder.encode_text(TEXTS, normalize=False), expected_texts(model, TEXTS))
    with pytest.raises(OfflineError, match="hf download org/other"):
        load("hf-hub:org/other")


def edited(directory: Path, **changes: object) -> None:
    path = directory / "open_clip_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_directories_that_cannot_be_used(model: nn.Module, tmp_path: Path) -> None:
    whole = save_directory(tmp_path / "whole", model)

    def refuses(message: str) -> None:
        with pytest.raises((CheckpointError, ConfigError), match=message):
            load(str(tmp_path / "copy"))
        shutil.rmtree(tmp_path / "copy")

    def copy() -> Path:
        return Path(shutil.copytree(whole, tmp_path / "copy"))

    (copy() / "open_clip_model.safetensors").unlink()
    refuses("no weights")
    (copy() / "open_clip_config.json").write_text("{")
    refuses("not valid JSON")
    edited(copy(), model_cfg=None)
    refuses("no model_cfg")
    edited(copy(), model_cfg={"embed_dim": 5, "text_cfg": {"width": 8, "heads": 1, "layers": 1}})
    refuses("open_clip cannot use the model")
    weights = copy() / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refuses("open_clip cannot use the model")


def test_tokenizer_that_is_not_there_costs_images_nothing(model: nn.Module, hub_cache: Path, tmp_path: Path) -> None:
    directory = save_directory(tmp_path / "model", model)
    config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    text = {**config["text_cfg"], "hf_tokenizer_name": "org/tokenizer"}
    edited(directory, model_cfg={**config, "text_cfg": text})
    encoder = load_image_text(str(directory), device="cpu")
    assert encoder.encode_image(pictures()).shape == (3, 24)
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        encoder.encode_text(["a dog"])


def test_features_of_a_source_are_those_of_the_image_half(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for index in range(3):
        Image.new("RGB", (40, 40), (80 * index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
    encoder = in_full_precision(wrap("open_clip:x/y", model, CPU))
    _, features = source_features(open_source(tmp_path / "images"), encoder)
    (dense,) = encoder.encode_dense([tmp_path / "images" / f"{index}.png" for index in range(3)])  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.from_numpy(features.copy()).float(), dense.tokens, rtol=2e-3, atol=1e-3)


def test_encoder_of_images_only_is_no_image_text_encoder(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    encoder = TimmEncoder("timm:x", timm.create_model("test_vit", num_classes=0), CPU)
    assert not isinstance(encoder, TextEncoder)
    monkeypatch.setattr("opsin.encoders.loading.load", lambda *_: encoder)
    with pytest.raises(ConfigError, match="encodes images only.*photo-clip"):
        load_image_text("timm:x")


@pytest.mark.parametrize("form", ["open_clip:ViT-B-32/openai", "directory", "timm:test_vit"])
def test_without_the_library(form: str, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = str(save_directory(tmp_path / "model", model)) if form == "directory" else form
    library, package = ("timm", "timm") if form.startswith("timm") else ("open_clip", "open-clip-torch")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError) as caught:
        load(ref)
    assert str(caught.value) == f"{ref} needs {library}, which is not installed: pip install {package}"


def test_without_network_a_model_that_works_is_offered(hub_cache: Path) -> None:
    with pytest.raises(OfflineError, match="What works now: photo-clip"):
        load("open_clip:ViT-B-16-SigLIP2/webli")


def test_texts_of_open_clip_are_cut_at_the_length_of_the_network(model: nn.Module) -> None:
    """Sixteen tokens, of which one begins and one ends the text."""
    encoder = wrap("tiny", model, torch.device("cpu"))
    texts = ["", "hat " * 14, "hat " * 15, "日本語", "hat " * 14 + "!", "hat " * 300]
    unread = encoder.unread(texts)
    assert (unread.total, unread.unreadable, unread.max_tokens) == (6, (), 16)
    assert unread.cut == ("hat " * 15, "hat " * 14 + "!", "hat " * 300)
    assert encoder.tokenize(texts).shape == (6, 16) and encoder.unread([]).total == 0
