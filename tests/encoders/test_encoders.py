"""Encoders from timm, open_clip and opsin's own classifiers: random weights, the real loading paths, no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from opsin.classification.config import ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.encoders import DenseEncoder, ImageEncoder, load
from opsin.encoders.open_clip import DenseOpenClipEncoder, OpenClipEncoder, wrap
from opsin.encoders.timm import TimmEncoder
from opsin.errors import CheckpointError, ConfigError, DataError, OfflineError
from opsin.images.preprocessing import Preprocessing
from opsin.runtime import autocast

from .clip_models import CONFIG, tiny_clip

CPU = torch.device("cpu")
TIMM_NAME = "test_vit.r160_in1k"


def pictures(count: int = 3) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = [(40, 30), (32, 32), (20, 50)]
    return [
        Image.fromarray(generator.integers(256, size=(*sizes[index % 3], 3), dtype=np.uint8)) for index in range(count)
    ]


def put_into_cache(cache: Path, repo_id: str, filename: str, tensors: dict[str, Tensor]) -> None:
    """A repository with one file, laid out as the Hub's client keeps it."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, snapshot / filename)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setenv("OPSIN_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def small_clip(patches: bool = True) -> nn.Module:
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}
    if patches:
        vision: dict = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    else:
        vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    preprocessing = {"size": 32, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic"}
    open_clip.model.set_model_preprocess_cfg(model, {**preprocessing, "resize_mode": "shortest", "fill_color": 0})
    return model


def test_timm_from_the_cache(hub_cache: Path) -> None:
    """`load` gives the scores of the weights that lie in the cache, prepared as timm says."""
    torch.manual_seed(0)
    original = timm.create_model(TIMM_NAME, pretrained=False)
    put_into_cache(hub_cache, original.pretrained_cfg["hf_hub_id"], "model.safetensors", original.state_dict())
    encoder = load(f"timm:{TIMM_NAME}", device="cpu")
    assert isinstance(encoder, ImageEncoder) and isinstance(encoder, DenseEncoder)
    assert encoder.name == f"timm:{TIMM_NAME}"
    original.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(original), is_training=False)
    inputs = torch.stack([transform(picture) for picture in pictures()])
    with torch.no_grad(), autocast(CPU):
        expected = original.eval()(inputs).float()
        tokens = original.forward_features(inputs).float()[:, original.num_prefix_tokens :]
    features = encoder.encode_image(pictures(), normalize=False)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(encoder.encode_image(pictures()), expected / expected.norm(dim=1, keepdim=True))
    (dense,) = encoder.encode_dense(pictures())
    torch.testing.assert_close(dense.tokens, tokens)
    assert dense.tokens.shape[1] == dense.grid[0] * dense.grid[1]
    assert {features.dtype, dense.tokens.dtype} == {torch.float32}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_convolutional_network_of_timm(name: str) -> None:
    """Its last feature map, row by row."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=0)
    encoder = TimmEncoder(f"timm:{name}", network, CPU)
    (dense,) = encoder.encode_dense(pictures(1))
    (rows, columns), width = dense.grid, dense.tokens.shape[2]
    assert dense.tokens.shape == (1, rows * columns, width)
    pooled = encoder.encode_image(pictures(1), normalize=False)
    with autocast(CPU):
        prepared = encoder._prepare(pictures(1)[0])[None]
        expected = network.forward_features(prepared).float()
    torch.testing.assert_close(dense.tokens.view(rows, columns, width), expected[0].permute(1, 2, 0))
    assert pooled.shape[0] == 1


def test_open_clip_vision_transformer() -> None:
    model = small_clip()
    encoder = wrap("open_clip:x/y", model, CPU)
    assert isinstance(encoder, DenseOpenClipEncoder) and isinstance(encoder, DenseEncoder)
    transform = open_clip.image_transform(32, is_train=False, mean=(0.5,) * 3, std=(0.25,) * 3)
    inputs = torch.stack([transform(picture) for picture in pictures()])
    with torch.no_grad(), autocast(CPU):
        expected = model.encode_image(inputs).float()
        model.visual.output_tokens = True
        tokens = model.visual(inputs)[1].float()
        model.visual.output_tokens = False
    torch.testing.assert_close(encoder.encode_image(pictures(), normalize=False), expected)
    torch.testing.assert_close(encoder.encode_image(pictures()).norm(dim=1), torch.ones(3))
    (dense,) = encoder.encode_dense(pictures())
    assert dense.grid == (4, 4)
    torch.testing.assert_close(dense.tokens, tokens)


def test_open_clip_network_without_patches_is_no_dense_encoder() -> None:
    encoder = wrap("open_clip:x/y", small_clip(patches=False), CPU)
    assert type(encoder) is OpenClipEncoder
    assert isinstance(encoder, ImageEncoder) and not isinstance(encoder, DenseEncoder)
    assert encoder.encode_image(pictures()).shape == (3, 24)


def test_open_clip_from_the_cache(hub_cache: Path) -> None:
    """The smallest architecture with published weights, with random ones in their place."""
    config = open_clip.get_pretrained_cfg("MobileCLIP2-S0", "dfndr2b")
    torch.manual_seed(0)
    model = open_clip.create_model("MobileCLIP2-S0", force_preprocess_cfg={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    repo_id = config["hf_hub"].rpartition("/")[0]
    put_into_cache(hub_cache, repo_id, "open_clip_model.safetensors", model.state_dict())
    encoder = load("open_clip:MobileCLIP2-S0/dfndr2b", device="cpu")
    expected = model.visual.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.network.state_dict().items())
    (dense,) = encoder.encode_dense(pictures(1))  # type: ignore[attr-defined]
    assert dense.tokens.shape[1] == dense.grid[0] * dense.grid[1]


@pytest.mark.parametrize("pool", ["mean", "class_token"])
def test_classifier_of_ones_own(tmp_path: Path, pool: str) -> None:
    torch.manual_seed(0)
    config = ViTConfig(patch_size=4, embed_dim=32, num_layers=1, num_heads=2, dim_feedforward=32, pool=pool)
    model = build_model(config, 16, 3)
    preprocessing = Preprocessing(image_size=16, mean=(0.4,) * 3, std=(0.2,) * 3)
    content = ClassifierContent(model=config, class_names=("a", "b", "c"), preprocessing=preprocessing)
    Classifier(model, content).save_pretrained(tmp_path / "model")
    encoder = load(str(tmp_path / "model"), device="cpu")
    assert isinstance(encoder, DenseEncoder)
    (dense,) = encoder.encode_dense(pictures())
    assert (dense.tokens.shape, dense.grid) == ((3, 16, 32), (4, 4))
    features = encoder.encode_image(pictures(), normalize=False)
    if pool == "mean":
        torch.testing.assert_close(features, dense.tokens.mean(dim=1), rtol=1e-2, atol=1e-2)
    with torch.no_grad(), autocast(CPU):
        scores = model.head(features).float()
    classifier = Classifier.from_pretrained(tmp_path / "model", device="cpu")
    labels = [result.labels[0] for result in classifier.classify(pictures())]
    assert labels == ["abc"[index] for index in scores.argmax(dim=1).tolist()]


def test_batches_do_not_change_features() -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    many = pictures(40)
    together = encoder.encode_image(many)
    torch.testing.assert_close(together[33:34], encoder.encode_image(many[33:34]), rtol=2e-2, atol=2e-2)
    assert len(together) == 40


def test_nothing_is_trained() -> None:
    encoder = wrap("open_clip:x/y", small_clip(), CPU)
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert not encoder.encode_image(pictures()).requires_grad


@pytest.mark.parametrize("method", ["encode_image", "encode_dense"])
def test_what_cannot_be_encoded(method: str) -> None:
    encode = getattr(wrap("open_clip:x/y", small_clip(), CPU), method)
    if method == "encode_dense":
        assert list(encode([])) == []
    else:
        with pytest.raises(ValueError, match="at least one image"):
            encode([])
    with pytest.raises(DataError, match="there is no file missing"):
        list(encode(["missing.png"]))


@pytest.mark.parametrize(
    ("ref", "download"),
    [
        ("timm:vit_small_patch8_224.dino", "hf download timm/vit_small_patch8_224.dino model.safetensors"),
        (
            "open_clip:ViT-B-32/openai",
            "hf download timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors",
        ),
    ],
)
def test_without_network_the_error_says_what_to_do(hub_cache: Path, ref: str, download: str) -> None:
    with pytest.raises(OfflineError, match="cannot be downloaded now") as caught:
        load(ref)
    message = str(caught.value)
    assert ref in message
    assert download in message
    assert str(hub_cache / "models--timm--vit_") in message
    assert "imagenet, which is installed with opsin" in message


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("timm:vit_smal_patch8_224", ConfigError, "timm has no model 'vit_smal_patch8_224'"),
        ("timm:vit_small_patch8_224.nothing", ConfigError, "timm has no model"),
        ("open_clip:ViT-B-32", ConfigError, "the tags of ViT-B-32 are openai"),
        ("open_clip:ViT-B-32/none", ConfigError, "the tags of ViT-B-32 are openai"),
        ("open_clip:ViT-B-33/openai", ConfigError, "open_clip:ARCHITECTURE/TAG"),
        ("nothing", CheckpointError, "there is no model 'nothing'"),
    ],
)
def test_unknown_references(hub_cache: Path, ref: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(ref)


TIMM = "test_vit"
"""A network of timm's own tests, with 0.4 million weights."""


def timm_weights(path: Path, form: str) -> tuple[nn.Module, Path]:
    """A network with random weights, and a file of them as others write it."""
    torch.manual_seed(1)
    network = timm.create_model(TIMM, num_classes=3)
    weights = network.state_dict()
    if form == "safetensors":
        save_file(weights, path / "w.safetensors")
        return network, path / "w.safetensors"
    teacher = {f"module.backbone.{name}": value for name, value in weights.items()}
    content = {"plain": weights, "script": {"state_dict": weights, "epoch": 3}}
    content["dino"] = {"student": {}, "teacher": {**teacher, "module.head.last.weight": torch.zeros(2)}, "epoch": 3}
    torch.save(content[form], path / "w.pth")
    return network, path / "w.pth"


@pytest.mark.parametrize("form", ["safetensors", "plain", "script", "dino"])
def test_timm_with_weights_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    network, file = timm_weights(tmp_path, form)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "opsin"):
        encoder = load(f"timm:{TIMM}@{file.name}", "cpu", "32")
    assert encoder.name == f"timm:{TIMM}@{file}"
    images = pictures()
    batch = torch.stack([encoder._prepare(image) for image in images])
    with torch.no_grad():
        expected = network.eval().forward_head(network.forward_features(batch), pre_logits=True)
    torch.testing.assert_close(encoder.encode_image(images, normalize=False), expected)
    assert "2 tensors are not used" in caplog.text
    assert "head.weight" in caplog.text


def test_timm_weights_that_do_not_fit(tmp_path: Path) -> None:
    network, file = timm_weights(tmp_path, "plain")
    weights = dict(network.state_dict())
    del weights["blocks.0.attn.qkv.weight"]
    torch.save(weights, file)
    with pytest.raises(CheckpointError, match=r"has \d+ of the \d+ tensors .*: blocks\.0\.attn\.qkv\.weight"):
        load(f"timm:{TIMM}@{file}")
    torch.save({**network.state_dict(), "norm.weight": torch.zeros(7)}, file)
    with pytest.raises(CheckpointError, match="do not fit timm's test_vit: .*norm.weight"):
        load(f"timm:{TIMM}@{file}")
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match="is no state dict"):
        load(f"timm:{TIMM}@{file}")
    with pytest.raises(CheckpointError, match=r"gone\.pth cannot be read: No such file"):
        load(f"timm:{TIMM}@{tmp_path / 'gone.pth'}")


def test_open_clip_with_weights_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path)
    model = tiny_clip()
    file = tmp_path / "w.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, file)
    encoder = load(f"open_clip:tiny-clip@{file}", "cpu", "32")
    expected = wrap("x", model, CPU)
    expected.precision = "32"
    texts = ["a cat", "a dog"]
    torch.testing.assert_close(encoder.encode_text(texts), expected.encode_text(texts))
    with pytest.raises(ConfigError, match="no architecture 'tiny-clop'; did you mean 'tiny-clip'"):
        load(f"open_clip:tiny-clop@{file}")
    torch.save({"visual.proj": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="belong to another model"):
        load(f"open_clip:tiny-clip@{file}")


def test_vectors_that_are_nan_are_refused() -> None:
    config = ViTConfig(patch_size=8, embed_dim=16, num_layers=1, num_heads=2, dim_feedforward=16)
    network = build_model(config, 16, 2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1e30)  # finite, and too large to compute with
    content = ClassifierContent(model=config, class_names=("a", "b"), preprocessing=Preprocessing(image_size=16))
    encoder = Classifier(network, content, name="huge")
    for encode in (encoder.encode_image, encoder.encode_dense):
        with pytest.raises(CheckpointError, match="huge gives NaN or Inf: its weights are damaged"):
            list(encode(pictures(2)))
