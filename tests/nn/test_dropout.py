"""Dropout is torch's own in float32, and as good in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opsin.nn.attention import Dropout


def test_float32_draws_what_torch_draws() -> None:
    x = torch.randn(5, 7)
    torch.manual_seed(3)
    expected = nn.Dropout(0.3)(x)
    torch.manual_seed(3)
    torch.testing.assert_close(Dropout(0.3)(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_bfloat16_keeps_the_right_share_and_scale(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(300, 1001, dtype=torch.bfloat16)
    y = Dropout(p)(x)
    assert y.dtype == torch.bfloat16
    share = (y != 0).double().mean().item()
    assert share == pytest.approx(1 - p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    assert y[y != 0].unique().tolist() == [torch.tensor(1 / (1 - p), dtype=torch.bfloat16).item()]


def test_bfloat16_elements_are_dropped_independently() -> None:
    """Four neighbours share one draw, and still do not know of each other."""
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(100_000, 4, dtype=torch.bfloat16)) != 0).double()
    correlations = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.float64)
    assert correlations.abs().max() < 5 / 100_000**0.5


def test_bfloat16_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(33, 5).bfloat16().requires_grad_()
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad != 0, y != 0)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
def test_extremes(p: float, expected: float) -> None:
    x = torch.ones(64, dtype=torch.bfloat16)
    torch.testing.assert_close(Dropout(p)(x), torch.full_like(x, expected))


def test_evaluation_changes_nothing_and_a_seed_repeats() -> None:
    x = torch.randn(3, 7, 2).bfloat16()
    layer = Dropout(0.5)
    torch.manual_seed(5)
    first = layer(x)
    torch.manual_seed(5)
    torch.testing.assert_close(layer(x), first, rtol=0, atol=0)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="probability of dropout must be in 0 to 1"):
        Dropout(p)
