"""Positions against their formula, patches against a strided convolution and against cutting them out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from opsin.nn.embeddings import ConvStem, LearnedPositions, PatchEmbedding, PositionalEncoding, sinusoidal_positions

# ---------------------------------------------------------------------------------------------- positions


def formula(length: int, embed_dim: int) -> np.ndarray:
    table = np.zeros((length, embed_dim))
    for position in range(length):
        for column in range(embed_dim):
            angle = position * 10000 ** (-(column - column % 2) / embed_dim)
            table[position, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    return table


@pytest.mark.parametrize(("length", "embed_dim"), [(1, 2), (7, 6), (50, 128)])
def test_sinusoid_against_the_formula(length: int, embed_dim: int) -> None:
    table = sinusoidal_positions(length, embed_dim)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table.numpy(), formula(length, embed_dim), atol=5e-6)


def test_sinusoid_at_the_longest_length() -> None:
    """Angles reach 5,000 radians there, of which float32 keeps three decimals."""
    np.testing.assert_allclose(sinusoidal_positions(5000, 8).numpy(), formula(5000, 8), atol=1e-3)


def test_sinusoid_needs_an_even_width() -> None:
    with pytest.raises(ValueError, match="even embed_dim, not 7"):
        PositionalEncoding(7)


def test_positional_encoding() -> None:
    layer = PositionalEncoding(6, dropout=0.5, max_len=10)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {"pe": (1, 10, 6)}
    assert list(layer.parameters()) == []
    x = torch.randn(2, 4, 6)
    assert torch.equal(layer.eval()(x), x + sinusoidal_positions(4, 6))
    torch.manual_seed(0)
    dropped = layer.train()(x)
    zero = dropped == 0
    assert 0 < zero.sum() < zero.numel()
    torch.testing.assert_close(dropped[~zero], (2 * (x + sinusoidal_positions(4, 6)))[~zero])


def test_positional_encoding_draws_nothing_when_made() -> None:
    state = torch.get_rng_state()
    PositionalEncoding(6)
    assert torch.equal(torch.get_rng_state(), state)


def test_sequence_longer_than_the_table() -> None:
    layer = PositionalEncoding(6, max_len=10)
    assert layer(torch.zeros(1, 10, 6)).shape == (1, 10, 6)
    with pytest.raises(ValueError, match="11 tokens exceeds the 10 positions"):
        layer(torch.zeros(1, 11, 6))


def test_learned_positions() -> None:
    torch.manual_seed(0)
    layer = LearnedPositions(64, 50, dropout=0.0)
    assert layer.positions.std().item() == pytest.approx(0.02, rel=0.1)
    x = torch.randn(2, 50, 64)
    output = layer(x)
    assert torch.equal(output, x + layer.positions)
    output.sum().backward()
    assert torch.equal(layer.positions.grad, torch.full((1, 50, 64), 2.0))


@pytest.mark.parametrize("length", [1, 4, 6])
def test_learned_positions_of_another_length(length: int) -> None:
    with pytest.raises(ValueError, match=f"a sequence of {length} tokens, but 5 learned positions"):
        LearnedPositions(8, 5)(torch.zeros(2, length, 8))


# ------------------------------------------------------------------------------------------------ patches


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    grid=st.integers(1, 4),
    patch_size=st.integers(1, 5),
    channels=st.integers(1, 4),
    embed_dim=st.integers(1, 9),
)
def test_patches_are_a_strided_convolution(
    batch: int, grid: int, patch_size: int, channels: int, embed_dim: int
) -> None:
    layer = PatchEmbedding(grid * patch_size, patch_size, channels, embed_dim)
    images = torch.randn(batch, channels, grid * patch_size, grid * patch_size)
    kernel = layer.proj.weight.view(embed_dim, channels, patch_size, patch_size)
    convolved = nn.functional.conv2d(images, kernel, layer.proj.bias, stride=patch_size)
    embedded = layer(images)
    assert embedded.shape == (batch, grid * grid, embed_dim)
    torch.testing.assert_close(embedded, convolved.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_patches_against_unfold_and_slices() -> None:
    layer = PatchEmbedding(img_size=12, patch_size=4, in_channels=3, embed_dim=7)
    images = torch.randn(2, 3, 12, 12)
    embedded = layer(images)
    unfolded = nn.functional.unfold(images, kernel_size=4, stride=4).transpose(1, 2)
    torch.testing.assert_close(embedded, layer.proj(unfolded))
    for token, (row, column) in enumerate((row, column) for row in range(3) for column in range(3)):
        patch = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(embedded[:, token], layer.proj(patch.reshape(2, -1)))


def test_memory_format_does_not_matter() -> None:
    layer = PatchEmbedding(img_size=8, patch_size=4)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(layer(images.contiguous(memory_format=torch.channels_last)), layer(images))


@pytest.mark.parametrize("stem", [PatchEmbedding, ConvStem])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 16, 8), (2, 3, 8, 16), (2, 1, 16, 16), (3, 16, 16), (16, 16)])
def test_images_of_another_shape(stem: type[nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as error:
        stem(16, 4)(torch.zeros(shape))
    assert str(error.value) == f"expected images of shape (N, 3, 16, 16), got {shape}"


def test_patches_must_fit() -> None:
    with pytest.raises(ValueError, match=r"img_size \(10\) must be divisible by patch_size \(4\)"):
        PatchEmbedding(10, 4)


# ------------------------------------------------------------------------------------- convolutional stem


@pytest.mark.parametrize(("img_size", "patch_size"), [(8, 1), (8, 2), (16, 4), (16, 8), (16, 16)])
def test_conv_stem_shape_and_gradients(img_size: int, patch_size: int) -> None:
    stem = ConvStem(img_size, patch_size, in_channels=1, embed_dim=24)
    tokens = stem(torch.randn(3, 1, img_size, img_size))
    assert stem.grid_size == img_size // patch_size
    assert tokens.shape == (3, stem.grid_size**2, 24)
    tokens.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in stem.parameters())


def test_conv_stem_works_channels_last() -> None:
    """Whatever the layout of the input, all convolutions see channels last, the fast layout."""
    stem = ConvStem(16, 4)
    seen: list[Tensor] = []
    for module in stem.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    stem(torch.randn(2, 3, 16, 16))
    assert len(seen) == 2 * 7
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen)


def test_conv_stem_tokens_are_in_order() -> None:
    """Rows first, then columns, as the linear patches."""
    stem = ConvStem(16, 4, embed_dim=8).eval()
    images = torch.rand(2, 3, 16, 16)
    tokens, maps = stem(images), stem.layers(images)
    assert maps.shape == (2, 8, 4, 4)
    for token in range(16):
        torch.testing.assert_close(tokens[:, token], maps[:, :, token // 4, token % 4])


@pytest.mark.parametrize(("img_size", "patch_size"), [(12, 6), (10, 4), (8, 3), (4, 8)])
def test_conv_stem_needs_a_power_of_two(img_size: int, patch_size: int) -> None:
    message = rf"patch_size \({patch_size}\) must be a power of two that divides img_size \({img_size}\)"
    with pytest.raises(ValueError, match=message):
        ConvStem(img_size, patch_size)
