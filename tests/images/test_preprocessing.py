"""Scaling to network input against torchvision, and channel statistics against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from opsin.images.preprocessing import STATISTICS_IMAGES, Preprocessing, channel_statistics

PREPROCESSING = Preprocessing(image_size=5, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_prepare_against_torchvision() -> None:
    pixels = torch.from_numpy(random_pixels(2, 3, 5, 7))
    kept = pixels.clone()
    expected = tv.normalize(
        tv.to_dtype(pixels, torch.float32, scale=True), list(PREPROCESSING.mean), list(PREPROCESSING.std)
    )
    prepared = PREPROCESSING.prepare(pixels)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, expected)
    assert torch.equal(pixels, kept)


def test_default_maps_to_minus_one_and_one() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert Preprocessing(image_size=1).prepare(ends)[:, 0, 0, 0].tolist() == [-1, 1]


def test_statistics_against_numpy() -> None:
    pixels = random_pixels(40, 3, 6, 9)
    pixels[:, 0] //= 2
    pixels[:, 1] = 100 + pixels[:, 1] // 10
    mean, std = channel_statistics(pixels)
    channels = pixels.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert mean == pytest.approx(channels.mean(axis=1), abs=5.1e-5)
    assert std == pytest.approx(channels.std(axis=1), abs=5.1e-5)
    assert all(value == round(value, 4) for value in mean + std)


def test_statistics_standardise() -> None:
    pixels = random_pixels(100, 3, 8, 8)
    mean, std = channel_statistics(pixels)
    prepared = Preprocessing(image_size=8, mean=mean, std=std).prepare(torch.from_numpy(pixels))
    torch.testing.assert_close(prepared.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(prepared.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("colour", [0, 77, 255])
def test_flat_colour_has_a_deviation_of_one(colour: int) -> None:
    mean, std = channel_statistics(np.full((3, 3, 4, 4), colour, dtype=np.uint8))
    assert mean == pytest.approx([colour / 255] * 3, abs=5.1e-5)
    assert std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("count", "step"), [(STATISTICS_IMAGES, 1), (STATISTICS_IMAGES + 1, 2), (10_000, 3)])
def test_statistics_of_many_images_look_at_evenly_spread_ones(count: int, step: int) -> None:
    pixels = np.zeros((count, 3, 1, 1), dtype=np.uint8)
    pixels[::step] = random_pixels(len(range(0, count, step)), 3, 1, 1)
    assert channel_statistics(pixels) == channel_statistics(pixels[::step].copy())
    assert len(pixels[::step]) <= STATISTICS_IMAGES
