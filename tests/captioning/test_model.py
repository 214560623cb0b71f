"""The decoder: what its scores depend on, its cache, its options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opsin.captioning.model import CaptioningTransformer

from .conftest import make_model, word_table

SHAPES = [(3, 6), (3, 5, 6)]
OPTIONS: list[dict] = [{}, {"pre_norm": True}, {"tie_weights": True}, {"pre_norm": True, "tie_weights": True}]


def draw(shape: tuple[int, ...], length: int = 7, words: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(shape, generator=generator)
    return features, torch.randint(0, words, (shape[0], length), generator=generator)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_the_whole_forward(options: dict, shape: tuple[int, ...]) -> None:
    model = make_model(**options)
    features, captions = draw(shape)
    whole = model(features, captions)
    cache = model.start(features)
    stepped = torch.stack([model.step(captions[:, place], cache) for place in range(captions.shape[1])], dim=1)
    torch.testing.assert_close(stepped, whole, rtol=1e-4, atol=1e-5)
    assert cache.length == captions.shape[1]


def test_several_captions_share_one_memory() -> None:
    model = make_model()
    features, _ = draw((3, 5, 6))
    captions = torch.randint(0, 16, (3 * 4, 6), generator=torch.Generator().manual_seed(1))
    cache = model.start(features)
    stepped = torch.stack([model.step(captions[:, place], cache) for place in range(6)], dim=1)
    torch.testing.assert_close(stepped, model(features.repeat_interleave(4, 0), captions), rtol=1e-4, atol=1e-5)


def test_reordered_cache_goes_on_from_other_captions() -> None:
    model = make_model()
    features = draw((1, 5, 6))[0]
    captions = torch.randint(0, 16, (4, 6), generator=torch.Generator().manual_seed(1))
    cache = model.start(features)
    for place in range(5):
        model.step(captions[:, place], cache)
    order = torch.tensor([2, 2, 0, 3])
    cache.reorder(order)
    stepped = model.step(captions[:, 5], cache)
    mixed = torch.cat([captions[order, :5], captions[:, 5:]], dim=1)
    torch.testing.assert_close(stepped, model(features.expand(4, -1, -1), mixed)[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_scores_do_not_depend_on_later_words(options: dict) -> None:
    model = make_model(**options)
    features, captions = draw((3, 5, 6))
    changed = captions.clone()
    changed[:, 4] = (captions[:, 4] + 1) % 16
    before, after = model(features, captions), model(features, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_pooled_vector_is_a_memory_of_length_one() -> None:
    model = make_model()
    features, captions = draw((3, 6))
    torch.testing.assert_close(model(features, captions), model(features[:, None], captions))


def test_memory_is_a_set() -> None:
    """Image vectors carry their own positions, if any: the decoder adds none."""
    model = make_model()
    features, captions = draw((3, 5, 6))
    torch.testing.assert_close(model(features.flip(1), captions), model(features, captions), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_parameter_gets_a_gradient(options: dict) -> None:
    model = make_model(**options).train()
    features, captions = draw((3, 5, 6))
    nn.functional.cross_entropy(model(features, captions).flatten(0, 1), captions.flatten()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_layout_is_the_published_one() -> None:
    names = set(dict(make_model(num_layers=1).named_parameters()))
    attention = [f"{part}.{kind}" for part in ("key", "query", "value", "proj") for kind in ("weight", "bias")]
    expected = {f"transformer.layers.0.{layer}.{name}" for layer in ("self_attn", "cross_attn") for name in attention}
    expected |= {f"transformer.layers.0.ffn.{layer}.{kind}" for layer in ("fc1", "fc2") for kind in ("weight", "bias")}
    norms = ("norm_self", "norm_cross", "norm_ffn")
    expected |= {f"transformer.layers.0.{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    expected |= {"visual_projection.weight", "visual_projection.bias", "embedding.weight"}
    assert names == expected | {"output.weight", "output.bias"}


def test_default_feed_forward_width_and_initial_weights() -> None:
    torch.manual_seed(0)
    model = CaptioningTransformer(word_table(200), input_dim=64, wordvec_dim=64)
    layer = model.transformer.layers[1]
    assert layer.ffn.fc1.out_features == 2048  # type: ignore[union-attr]
    assert abs(float(model.embedding.weight.detach().std()) - 0.02) < 1e-3
    assert bool((model.embedding.weight[0] != 0).all())  # the padding row is initialised like the others
    assert not model.visual_projection.bias.any()
    assert model.output is not None
    assert (
        abs(float(model.output.weight.detach().std()) - 1 / (64 * 3) ** 0.5) < 3e-3
    )  # torch's default: uniform, ±1/√64


def test_tied_model_has_no_output_weights_of_its_own() -> None:
    tied, own = make_model(tie_weights=True), make_model()
    count = sum(parameter.numel() for parameter in tied.parameters())
    assert count == sum(parameter.numel() for parameter in own.parameters()) - 16 * 16
    features, captions = draw((3, 6))
    with torch.no_grad():
        before = tied(features, captions)
        tied.embedding.weight[7, 0] += 1.0
    assert not torch.allclose(tied(features, captions)[:, 0, 7], before[:, 0, 7])


def test_attention_weights_are_those_of_the_layers() -> None:
    model = make_model()
    features, captions = draw((3, 5, 6))
    weights = model.attention_weights(features, captions)
    assert weights.shape == (3, 2, 2, 7, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 2, 7))
    seen: list[Tensor] = []
    attention = model.transformer.layers[0].cross_attn
    hook = attention.register_forward_hook(  # type: ignore[union-attr]
        lambda module, args, kwargs, output: seen.append(module.attention_weights(kwargs["query"], kwargs["key"])),
        with_kwargs=True,
    )
    model(features, captions)
    hook.remove()
    torch.testing.assert_close(weights[:, 0], seen[0])


def uncached_sample(model: CaptioningTransformer, features: Tensor, length: int) -> np.ndarray:
    """The course's way: the whole caption again at each step."""
    words = torch.full((len(features), 1), 1)
    for _ in range(length):
        words = torch.cat([words, model(features, words)[:, -1].argmax(dim=1, keepdim=True)], dim=1)
    return words[:, 1:].numpy()


@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize("shape", [(40, 6), (40, 5, 6)])
def test_sample_equals_full_recomputation(shape: tuple[int, ...], as_array: bool) -> None:
    model = make_model()
    features, _ = draw(shape)
    sampled = model.sample(features.numpy() if as_array else features, max_length=20)
    assert np.array_equal(sampled, uncached_sample(model, features, 20))
    assert sampled.shape == (40, 20)
    assert np.issubdtype(sampled.dtype, np.integer)
    assert len(np.unique(sampled, axis=0)) > 5


def test_sample_of_nothing_and_of_read_only_arrays() -> None:
    model = make_model()
    features = draw((3, 6))[0].numpy()
    features.setflags(write=False)
    assert model.sample(features, max_length=4).shape == (3, 4)
    for count, length in ((3, 0), (0, 4), (0, 0)):
        nothing = model.sample(features[:count], max_length=length)
        assert (nothing.shape, nothing.dtype) == ((count, length), np.int64)


def test_sample_evaluates_and_restores_the_mode() -> None:
    model = make_model(dropout=0.5)
    features, _ = draw((40, 6))
    expected = model.sample(features, max_length=10)
    model.train()
    model.embedding.eval()  # a part that the caller has frozen stays as it is
    assert np.array_equal(model.sample(features.double().numpy(), max_length=10), expected)
    assert model.training
    assert model.transformer.layers[0].training
    assert not model.embedding.training


def test_what_the_vocabulary_needs() -> None:
    with pytest.raises(ValueError, match="<NULL>"):
        CaptioningTransformer({"cat": 0}, 6, 16)
    with pytest.raises(ValueError, match="<START>"):
        CaptioningTransformer({"<NULL>": 0, "cat": 1}, 6, 16).sample(torch.zeros(1, 6))


@pytest.mark.parametrize("shape", [(3, 7), (6,), (3, 2, 2, 6)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected features of shape \(N, 6\) or \(N, P, 6\)"):
        make_model()(torch.zeros(shape), torch.zeros(3, 2, dtype=torch.int64))


def test_captions_longer_than_the_positions_are_refused() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="31 tokens exceeds the 30 positions"):
        model(torch.zeros(1, 6), torch.zeros(1, 31, dtype=torch.int64))
    with pytest.raises(ValueError, match="31 tokens exceeds the 30 positions"):
        model.sample(torch.zeros(1, 6), max_length=31)
