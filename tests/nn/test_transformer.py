"""Encoder and decoder layers against torch's with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from opsin.nn.transformer import (
    FeedForwardNetwork,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
    initialize_transformer_weights,
)

from .peers import torch_decoder_layer, torch_encoder_layer

N, T, S, D, H, FFN = 2, 4, 6, 12, 3, 20


def scrambled(module: nn.Module) -> nn.Module:
    """All weights random, norms and biases too, so that nothing is hidden by ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture
def sequence() -> Tensor:
    return torch.randn(N, T, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def memory() -> Tensor:
    return torch.randn(N, S, D, generator=torch.Generator().manual_seed(2))


CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()


def assert_same(ours: Tensor, peers: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Equal outputs and equal gradients of the inputs."""
    torch.testing.assert_close(ours, peers)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    for gradient, expected in zip(
        torch.autograd.grad(ours, inputs, weights), torch.autograd.grad(peers, inputs, weights), strict=True
    ):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("mask", [None, CAUSAL])
def test_encoder_layer_against_torch(sequence: Tensor, pre_norm: bool, mask: Tensor | None) -> None:
    layer = scrambled(TransformerEncoderLayer(D, H, FFN, dropout=0.0, pre_norm=pre_norm))
    sequence.requires_grad_()
    expected = torch_encoder_layer(layer)(sequence, None if mask is None else ~mask)
    assert_same(layer(sequence, mask), expected, (sequence,))


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("mask", [None, CAUSAL])
def test_decoder_layer_against_torch(sequence: Tensor, memory: Tensor, pre_norm: bool, mask: Tensor | None) -> None:
    layer = scrambled(TransformerDecoderLayer(D, H, FFN, dropout=0.0, pre_norm=pre_norm))
    sequence.requires_grad_()
    memory.requires_grad_()
    expected = torch_decoder_layer(layer)(sequence, memory, None if mask is None else ~mask)
    assert_same(layer(sequence, memory, mask), expected, (sequence, memory))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_stacks_against_torch(sequence: Tensor, memory: Tensor, pre_norm: bool) -> None:
    encoder = scrambled(TransformerEncoder(TransformerEncoderLayer(D, H, FFN, 0.0, pre_norm=pre_norm), 3))
    decoder = scrambled(TransformerDecoder(TransformerDecoderLayer(D, H, FFN, 0.0, pre_norm=pre_norm), 3))
    encoded, decoded = memory, sequence
    for layer in encoder.layers:
        encoded = torch_encoder_layer(layer)(encoded)
    for layer in decoder.layers:
        decoded = torch_decoder_layer(layer)(decoded, encoded, ~CAUSAL)
    output = encoder(memory)
    torch.testing.assert_close(output, encoded)
    torch.testing.assert_close(decoder(sequence, output, CAUSAL), decoded)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_causal_mask_hides_the_future(sequence: Tensor, memory: Tensor, pre_norm: bool) -> None:
    layer = scrambled(TransformerDecoderLayer(D, H, FFN, pre_norm=pre_norm)).eval()
    changed = sequence.clone()
    changed[:, 2:] = 0
    before, after = layer(sequence, memory, CAUSAL), layer(changed, memory, CAUSAL)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.isclose(before[:, 2:], after[:, 2:]).all(dim=-1).any()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_weights_of_an_encoder_layer(sequence: Tensor, pre_norm: bool) -> None:
    """They are what the attention inside is called with: the normalised input when the norm comes first."""
    layer = scrambled(TransformerEncoderLayer(D, H, FFN, pre_norm=pre_norm)).eval()
    _, expected = torch_encoder_layer(layer).self_attn(
        *[layer.norm_self(sequence) if pre_norm else sequence] * 3,
        attn_mask=~CAUSAL,
        average_attn_weights=False,
    )
    torch.testing.assert_close(layer.attention_weights(sequence, CAUSAL), expected)


def test_layers_are_deep_copies(sequence: Tensor) -> None:
    original = TransformerEncoderLayer(D, H, FFN)
    encoder = TransformerEncoder(original, 2)
    first, second = encoder.layers
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), original.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert len({tensor.data_ptr() for tensor in (a, b, c)}) == 3, name
    with torch.no_grad():
        first.ffn.fc1.weight.zero_()
    assert second.ffn.fc1.weight.any()
    assert original.ffn.fc1.weight.any()
    assert {name.split(".")[0] for name in encoder.state_dict()} == {"layers"}


def test_order_of_the_dropouts(sequence: Tensor, memory: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published values need these draws in this order, each of a plainly laid out tensor."""
    shapes: list[tuple[int, ...]] = []

    def noted(input: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
        assert p == 0.1
        assert training
        assert input.is_contiguous()
        shapes.append(tuple(input.shape))
        return input

    monkeypatch.setattr(nn.functional, "dropout", noted)
    TransformerDecoderLayer(D, H, FFN)(sequence, memory)
    token, hidden = (N, T, D), (N, T, FFN)
    assert shapes == [(N, H, T, T), token, (N, H, T, S), token, hidden, token]
    shapes.clear()
    TransformerEncoderLayer(D, H, FFN)(sequence)
    assert shapes == [(N, H, T, T), token, hidden, token]


def test_no_dropout_in_evaluation(sequence: Tensor) -> None:
    layer = TransformerEncoderLayer(D, H, FFN, dropout=0.9).eval()
    torch.testing.assert_close(layer(sequence), torch_encoder_layer(layer)(sequence))


def test_feed_forward(sequence: Tensor) -> None:
    network = FeedForwardNetwork(D, FFN, dropout=0.0)
    by_hand = network.fc2(nn.functional.gelu(network.fc1(sequence), approximate="none"))
    torch.testing.assert_close(network(sequence), by_hand)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_parameter_gets_a_gradient(sequence: Tensor, memory: Tensor, pre_norm: bool) -> None:
    layer = TransformerDecoderLayer(D, H, FFN, pre_norm=pre_norm)
    (layer(sequence, memory, CAUSAL) ** 3).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("layer_class", [TransformerEncoderLayer, TransformerDecoderLayer])
def test_attribute_names(layer_class: type[nn.Module]) -> None:
    """Checkpoints of the course load by these names."""
    cross = layer_class is TransformerDecoderLayer
    blocks = ["self_attn", "cross_attn", "ffn"] if cross else ["self_attn", "ffn"]
    places = ["self", "cross", "ffn"] if cross else ["self", "ffn"]
    expected = [*blocks, *(f"norm_{place}" for place in places), *(f"dropout_{place}" for place in places)]
    layer = layer_class(D, H)
    assert [name for name, _ in layer.named_children()] == expected
    assert layer.ffn.fc1.out_features == 2048


def test_initialisation() -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {
            "linear": nn.Linear(200, 100),
            "no_bias": nn.Linear(200, 100, bias=False),
            "embedding": nn.Embedding(100, 200, padding_idx=0),
            "norm": scrambled(nn.LayerNorm(10)),
            "convolution": nn.Conv2d(3, 4, 3),
        }
    )
    kept = module["convolution"].weight.clone()
    module.apply(initialize_transformer_weights)
    for name in ("linear", "no_bias", "embedding"):
        weight = module[name].weight
        assert weight.mean().item() == pytest.approx(0, abs=6e-4)
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not module["linear"].bias.any()
    assert module["embedding"].weight[0].any()  # the padding row as well
    assert torch.equal(module["norm"].weight, torch.ones(10))
    assert not module["norm"].bias.any()
    assert torch.equal(module["convolution"].weight, kept)
