"""The Vision Transformer with every combination of its options."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opsin.nn.vision_transformer import VisionTransformer

from .peers import torch_encoder_layer

OPTIONS = {
    "norm": ("post", "pre"),
    "pool": ("mean", "class_token"),
    "positions": ("sinusoidal", "learned"),
    "stem": ("linear", "conv"),
}
COMBINATIONS = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


def small_vit(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "num_layers": 2, "num_heads": 4, "dim_feedforward": 48}
    return VisionTransformer(**{**sizes, "num_classes": 5, **options})


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "-".join(options.values()))
def test_every_combination_of_options(options: dict[str, Any], images: Tensor) -> None:
    model = small_vit(**options)
    scores = model(images)
    assert scores.shape == (3, 5)
    nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # it shifts all scores of a row alike, which the softmax does not see
            assert parameter.grad.any(), name

    model.eval()
    tokens = 16 + (options["pool"] == "class_token")
    features = model.forward_features(images)
    assert features.shape == (3, tokens, 32)
    pooled = features[:, 0] if options["pool"] == "class_token" else features.mean(dim=1)
    torch.testing.assert_close(model(images), model.head(pooled))
    weights = model.attention_weights(images)
    assert weights.shape == (3, 2, 4, tokens, tokens)
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 4, tokens))


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "-".join(options.values()))
def test_against_torch_layers(options: dict[str, Any], images: Tensor) -> None:
    """The whole forward pass, written out with torch's encoder layers; their weights too."""
    model = small_vit(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x = model.patch_embed(images)
        if options["pool"] == "class_token":
            x = torch.cat([model.class_token.repeat(3, 1, 1), x], dim=1)
        encoding = model.positional_encoding
        x = x + (encoding.positions if options["positions"] == "learned" else encoding.pe[:, : x.shape[1]])
        expected_weights = []
        for layer in model.transformer.layers:
            peer = torch_encoder_layer(layer)
            attended = peer.norm1(x) if options["norm"] == "pre" else x
            _, weights = peer.self_attn(attended, attended, attended, average_attn_weights=False)
            expected_weights.append(weights)
            x = peer(x)
        if options["norm"] == "pre":
            x = nn.functional.layer_norm(x, (32,), model.norm.weight, model.norm.bias)
        expected = model.head(x[:, 0] if options["pool"] == "class_token" else x.mean(dim=1))
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        model.attention_weights(images), torch.stack(expected_weights, dim=1), atol=1e-5, rtol=1e-4
    )


def test_asking_for_weights_changes_nothing(images: Tensor) -> None:
    model = small_vit().eval()
    before = model(images)
    model.attention_weights(images)
    assert torch.equal(model(images), before)


def test_weights_in_training_are_those_of_eval_mode(images: Tensor) -> None:
    """Without dropout; the statistics of the stem and the modes of the modules, one of them frozen, stay."""
    model = small_vit(stem="conv", dropout=0.5)
    model.transformer.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = model.attention_weights(images)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(weights, model.eval().attention_weights(images))


@pytest.mark.parametrize("pool", OPTIONS["pool"])
def test_without_classes_it_gives_features(images: Tensor, pool: str) -> None:
    model = small_vit(num_classes=0, pool=pool, norm="pre").eval()
    features = model(images)
    assert features.shape == (3, 32)
    with_head = small_vit(pool=pool, norm="pre").eval()
    with_head.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(with_head.head(features), with_head(images))
    assert not any(name.startswith("head") for name in model.state_dict())


def test_other_sizes() -> None:
    model = small_vit(img_size=12, patch_size=3, in_channels=1)
    assert model.grid_size == 4
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"expected images of shape \(N, 1, 12, 12\), got \(2, 3, 12, 12\)"):
        model(torch.rand(2, 3, 12, 12))


def test_more_tokens_than_the_usual_table_of_positions() -> None:
    model = small_vit(img_size=72, patch_size=1, embed_dim=4, num_heads=1, dim_feedforward=4, num_layers=1)
    assert model.eval()(torch.rand(1, 3, 72, 72)).shape == (1, 5)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_unknown_option(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of {', '.join(OPTIONS[name])}, not 'none'"):
        VisionTransformer(**{name: "none"})


def test_inference_does_not_depend_on_the_batch(images: Tensor) -> None:
    model = small_vit(stem="conv", pool="class_token", norm="pre").eval()
    one_by_one = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), one_by_one)


def test_positions_matter(images: Tensor) -> None:
    """Patches in another order give other scores, which a mean over tokens alone would not."""
    model = small_vit().eval()
    assert not torch.allclose(model(images), model(images.roll(4, dims=-1)), atol=1e-5)
    model.positional_encoding.pe.zero_()
    torch.testing.assert_close(model(images), model(images.roll(4, dims=-1)), atol=1e-6, rtol=1e-5)


# -------------------------------------------------------------------------------- the seed's configuration


def parameter_count(patch_size: int) -> int:
    """By hand, for width 128, six layers, feed-forward width 256, ten classes."""
    attention, feed_forward, norms = 4 * (128 * 128 + 128), 128 * 256 + 256 + 256 * 128 + 128, 2 * 2 * 128
    patches, head = 3 * patch_size**2 * 128 + 128, 128 * 10 + 10
    return patches + 6 * (attention + feed_forward + norms) + head


@pytest.mark.parametrize(("patch_size", "num_heads"), [(8, 4), (4, 8)])
def test_number_of_parameters(patch_size: int, num_heads: int) -> None:
    model = VisionTransformer(patch_size=patch_size, num_heads=num_heads)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(patch_size)
    assert model.head.out_features == 10


def test_names_in_the_state() -> None:
    """Checkpoints of the course load by these names."""
    layer = [
        f"{module}.{kind}"
        for module in (
            *(f"self_attn.{name}" for name in ("key", "query", "value", "proj")),
            *("ffn.fc1", "ffn.fc2", "norm_self", "norm_ffn"),
        )
        for kind in ("weight", "bias")
    ]
    expected = {"patch_embed.proj.weight", "patch_embed.proj.bias", "positional_encoding.pe"}
    expected |= {f"transformer.layers.{index}.{name}" for index in range(6) for name in layer}
    expected |= {"head.weight", "head.bias"}
    state = VisionTransformer().state_dict()
    assert set(state) == expected
    assert state["positional_encoding.pe"].shape == (1, 5000, 128)


def test_initial_weights() -> None:
    """Drawn after everything is made, head included; layers differ although they are copies."""
    torch.manual_seed(0)
    model = VisionTransformer()
    for name in ("patch_embed.proj", "head", "transformer.layers.3.ffn.fc1"):
        layer = model.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.06)
        assert not layer.bias.any()
    first, second = model.transformer.layers[0], model.transformer.layers[1]
    assert not torch.equal(first.ffn.fc1.weight, second.ffn.fc1.weight)
