"""Multi-head attention against torch's, against loops, and its two paths against each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import opsin.nn.attention as attention
from opsin.nn.attention import MultiHeadAttention

from .peers import torch_attention

N, T, S, D, H = 2, 3, 5, 8, 2
MASK_SHAPES = [(), (S,), (1, S), (T, 1), (T, S), (H, T, S), (N, 1, T, S), (N, H, T, S), (N, 1, 1, S), (1, H, T, 1)]


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Query (N, T, D), key and value (N, S, D)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(N, length, D, generator=generator) for length in (T, S, S))


def make_attention(dropout: float = 0.0) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(D, H, dropout)


def random_mask(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def take_path(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    monkeypatch.setattr(attention, "_plain_is_better", lambda *_: plain)


# ---------------------------------------------------------------------------------------------- oracles


def looped(attn: MultiHeadAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> np.ndarray:
    """The formula, number by number, in float64: sum over the keys of softmax(q·k / √d) v, head by head."""

    def linear(layer: nn.Linear, x: Tensor) -> np.ndarray:
        return x.double().numpy() @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()

    q, k, v = linear(attn.query, query), linear(attn.key, key), linear(attn.value, value)
    n, t, s, d = len(q), q.shape[1], k.shape[1], D // H
    allowed = np.ones((n, H, t, s), bool) if mask is None else np.broadcast_to(mask.bool().numpy(), (n, H, t, s))
    heads = np.zeros((n, t, D))
    for sample in range(n):
        for head in range(H):
            columns = slice(head * d, (head + 1) * d)
            for row in range(t):
                scores = {
                    column: math.exp(q[sample, row, columns] @ k[sample, column, columns] / math.sqrt(d))
                    for column in range(s)
                    if allowed[sample, head, row, column]
                }
                for column, score in scores.items():
                    heads[sample, row, columns] += score / sum(scores.values()) * v[sample, column, columns]
    return linear(attn.proj, torch.from_numpy(heads))


@pytest.mark.parametrize("shape", [None, *MASK_SHAPES])
def test_against_loops(inputs: tuple[Tensor, Tensor, Tensor], shape: tuple[int, ...] | None) -> None:
    attn = make_attention()
    mask = None if shape is None else random_mask(shape)
    expected = looped(attn, *inputs, mask)
    np.testing.assert_allclose(attn(*inputs, attn_mask=mask).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["self", "cross", "query is key", "three inputs"])
@pytest.mark.parametrize("masked", [False, True])
def test_against_torch(inputs: tuple[Tensor, Tensor, Tensor], kind: str, masked: bool) -> None:
    query, key, value = inputs
    if kind == "self":
        key = value = query
    elif kind == "cross":
        value = key
    elif kind == "query is key":
        key, value = query, value[:, :T]
    attn = make_attention()
    mask = random_mask((T, key.shape[1])) if masked else None
    if mask is not None:
        mask[:, 0] = True  # torch gives NaN for a row without any key
    peer = torch_attention(attn)
    expected, expected_weights = peer(query, key, value, attn_mask=None if mask is None else ~mask)
    torch.testing.assert_close(attn(query, key, value, attn_mask=mask), expected)
    torch.testing.assert_close(attn.attention_weights(query, key, mask).mean(dim=1), expected_weights)


def test_gradients_against_torch(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    attn = make_attention()
    peer = torch_attention(attn)
    mask = random_mask((T, T)) | torch.eye(T, dtype=torch.bool)
    gradients = []
    for module, peer_mask in ((attn, mask), (peer, ~mask)):
        x = inputs[0].clone().requires_grad_()
        output = module(x, x, x, attn_mask=peer_mask)
        (output[0] if isinstance(output, tuple) else output).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    joint = torch.cat([attn.query.weight.grad, attn.key.weight.grad, attn.value.weight.grad])
    torch.testing.assert_close(joint, peer.in_proj_weight.grad)
    torch.testing.assert_close(attn.proj.weight.grad, peer.out_proj.weight.grad)


# ------------------------------------------------------------------------------------------ the two paths


@pytest.mark.parametrize("shape", [None, *MASK_SHAPES])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_fused_and_plain_agree(
    inputs: tuple[Tensor, Tensor, Tensor],
    shape: tuple[int, ...] | None,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attn = make_attention().to(dtype)
    mask = None if shape is None else random_mask(shape, seed=1)
    outputs, gradients = [], []
    for plain in (False, True):
        take_path(monkeypatch, plain)
        query, key, value = (x.to(dtype, copy=True).requires_grad_() for x in inputs)
        output = attn(query, key, value, attn_mask=mask)
        output.float().square().sum().backward()
        outputs.append(output)
        gradients.append(torch.cat([query.grad, key.grad, value.grad], dim=1))
    assert outputs[0].dtype == dtype
    torch.testing.assert_close(*outputs, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(*gradients, atol=5 * tolerance, rtol=5 * tolerance)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    width=st.integers(1, 9),
    queries=st.integers(1, 9),
    keys=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_fused_and_plain_agree_for_any_shape(
    batch: int, heads: int, width: int, queries: int, keys: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, length, width, generator=generator) for length in (queries, keys, keys))
    mask = torch.rand(batch, 1, queries, keys, generator=generator) < 0.3  # few enough to leave rows empty
    weights = attention.attention_probabilities(q, k, mask)
    torch.testing.assert_close(attention._fused_attention(q, k, v, mask, 0.0), weights @ v)
    row_sums = mask.any(dim=-1).expand(batch, heads, queries).float()
    torch.testing.assert_close(weights.sum(dim=-1), row_sums)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_masks_of_numbers(inputs: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> None:
    attn, mask = make_attention(), random_mask((T, S))
    assert torch.equal(attn(*inputs, attn_mask=mask.to(dtype)), attn(*inputs, attn_mask=mask))
    weights = attn.attention_weights(*inputs[:2], attn_mask=mask.to(dtype))
    assert torch.equal(weights, attn.attention_weights(*inputs[:2], attn_mask=mask))
    assert (weights[~mask.expand_as(weights)] == 0).all()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fully_masked_row_is_zero_with_finite_gradients(
    inputs: tuple[Tensor, Tensor, Tensor], plain: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_path(monkeypatch, plain)
    attn = make_attention().to(dtype)
    mask = torch.ones(N, 1, T, S, dtype=torch.bool)
    mask[0, :, 1] = False
    query, key, value = (x.to(dtype, copy=True).requires_grad_() for x in inputs)
    output = attn(query, key, value, attn_mask=mask)
    assert torch.equal(output[0, 1], attn.proj.bias)  # all-zero heads leave only the bias of the last layer
    assert not torch.equal(output[1, 1], attn.proj.bias)
    output.float().square().sum().backward()
    for gradient in (query.grad, key.grad, value.grad, *(parameter.grad for parameter in attn.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()
    assert (query.grad[0, 1] == 0).all()
    weights = attn.attention_weights(query, key, mask)
    assert (weights[0, :, 1] == 0).all()


def test_everything_masked(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    attn = make_attention(dropout=0.5)
    for mode in (True, False):
        output = attn.train(mode)(*inputs, attn_mask=torch.zeros(T, S))
        assert torch.equal(output, attn.proj.bias.expand_as(output))


def calls_of_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The real kernel, with a note of each call."""
    calls: list[Any] = []
    kernel = nn.functional.scaled_dot_product_attention

    def noted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(options)
        return kernel(*arguments, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", noted)
    return calls


def test_fused_kernel_never_sees_a_fully_masked_row(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would make of one depends on the backend and on the version of torch."""
    calls = calls_of_the_fused_kernel(monkeypatch)
    mask = torch.ones(T, S, dtype=torch.bool)
    mask[1] = False
    make_attention()(*inputs, attn_mask=mask)
    assert calls[0]["attn_mask"].all()


def test_which_path_is_taken_on_a_cpu(inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_fused_kernel(monkeypatch)
    attn = make_attention(dropout=0.1)
    attn(*inputs)
    assert len(calls) == 0  # dropout
    attn.eval()(*inputs)
    assert [call["dropout_p"] for call in calls] == [0.0]
    make_attention(dropout=0.0)(*inputs)
    assert len(calls) == 2
    attn.bfloat16()(*(x.bfloat16() for x in inputs))
    assert len(calls) == 2  # short bfloat16
    long = torch.zeros(1, attention.LONGEST_PLAIN_BF16 + 1, D, dtype=torch.bfloat16)
    attn(long[:, :1], long, long)
    assert len(calls) == 3


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("shape", [None, (T, S), (N, 1, T, S)])
def test_weights_are_those_of_forward(inputs: tuple[Tensor, Tensor, Tensor], shape: tuple[int, ...] | None) -> None:
    attn = make_attention().eval()
    query, key, value = inputs
    mask = None if shape is None else random_mask(shape)
    weights = attn.attention_weights(query, key, mask)
    assert weights.shape == (N, H, T, S)
    attends = torch.ones(N, H, T, dtype=torch.bool) if mask is None else mask.any(-1).expand(N, H, T)
    torch.testing.assert_close(weights.sum(-1), attends.float())
    v_NHSd = attn.value(value).view(N, S, H, D // H).transpose(1, 2)
    heads = (weights @ v_NHSd).transpose(1, 2).reshape(N, T, D)
    torch.testing.assert_close(attn.proj(heads), attn(query, key, value, attn_mask=mask))


def test_asking_for_weights_changes_nothing(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of_the_fused_kernel(monkeypatch)
    attn = make_attention(dropout=0.1).eval()
    before = attn(*inputs)
    state = dict(attn.__dict__)
    random_state = torch.get_rng_state()
    attn.attention_weights(*inputs[:2])
    assert len(calls) == 1
    assert attn.__dict__ == state
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(attn(*inputs), before)
    assert len(calls) == 2


def test_weights_are_before_dropout(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    attn = make_attention(dropout=0.5)
    training = attn.attention_weights(*inputs[:2])
    assert torch.equal(training, attn.eval().attention_weights(*inputs[:2]))


# ------------------------------------------------------------------------------------------------ dropout


def test_dropout_is_one_ordinary_dropout_of_the_weights(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[tuple[Tensor, float, bool]] = []

    def mirrored(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        dropped.append((input, p, training))
        return input.flip(-1)

    monkeypatch.setattr(nn.functional, "dropout", mirrored)
    attn = make_attention(dropout=0.25)
    output = attn(*inputs)
    [(weights, p, training)] = dropped
    assert (p, training) == (0.25, True)
    assert weights.is_contiguous()  # a mask fills memory in order: batch, head, query, key
    torch.testing.assert_close(weights, attn.attention_weights(*inputs[:2]))
    # What the dropout gives is what the values are weighted with.
    reversed_values = attn.eval()(inputs[0], inputs[1].flip(1), inputs[2])
    torch.testing.assert_close(output, reversed_values)


def test_statistics_of_dropout() -> None:
    """Equal weights over S ones give, times S (1 - p), the number of kept weights: binomial(S, 1 - p)."""
    torch.manual_seed(0)
    p, keys, draws = 0.3, 10, 20_000
    attn = MultiHeadAttention(1, 1, p)
    with torch.no_grad():
        for layer, weight in ((attn.query, 0.0), (attn.key, 0.0), (attn.value, 1.0), (attn.proj, 1.0)):
            layer.weight.fill_(weight)
            layer.bias.zero_()
        kept = attn(torch.ones(1, draws, 1), torch.ones(1, keys, 1), torch.ones(1, keys, 1)) * keys * (1 - p)
    torch.testing.assert_close(kept, kept.round())
    variance = keys * p * (1 - p)
    assert kept.mean().item() == pytest.approx(keys * (1 - p), abs=5 * math.sqrt(variance / draws))
    assert kept.var().item() == pytest.approx(variance, rel=0.06)


# ------------------------------------------------------------------------------------------------- the rest


def test_fast_projection_of_self_attention(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """One joint matrix product for three times the same tensor; three products for equal copies of it."""
    attn, x = make_attention(), inputs[0]
    torch.testing.assert_close(attn(x, x, x), attn(x, x.clone(), x.clone()))


def test_inputs_are_left_alone(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    copies = [x.clone() for x in inputs]
    mask = random_mask((T, S))
    kept = mask.clone()
    make_attention()(*inputs, attn_mask=mask)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True))
    assert torch.equal(mask, kept)


def test_layers_are_made_in_the_published_order() -> None:
    """Each layer draws its weights when it is made, so the reference values depend on the order."""
    attn = make_attention()
    torch.manual_seed(0)
    for name in ("key", "query", "value", "proj"):
        assert torch.equal(getattr(attn, name).weight, nn.Linear(D, D).weight)


def test_width_must_be_divisible() -> None:
    with pytest.raises(ValueError, match=r"embed_dim \(8\) must be divisible by num_heads \(3\)"):
        MultiHeadAttention(8, 3)
