"""Augmentation of colour and style, sample by sample against torchvision and plain loops."""

from __future__ import annotations

import colorsys
import itertools

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torch import Generator, Tensor

from opsin.images import color
from opsin.images.color import luminance

# torchvision weighs red with 0.2989, Pillow and we with 0.299; the two greys differ by 1e-4 at most.
GREY_TOLERANCE = {"atol": 2e-4, "rtol": 0.0}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    """Noise, and images that are black, white, grey and of one pure colour."""
    images = torch.rand(12, 3, 9, 13, generator=seeded())
    images[0], images[1], images[2] = 0, 1, 0.5
    images[3] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    return images


PEERS = {
    color.adjust_brightness: tv.adjust_brightness,
    color.adjust_contrast: tv.adjust_contrast,
    color.adjust_saturation: tv.adjust_saturation,
    color.adjust_hue: tv.adjust_hue,
}


@pytest.mark.parametrize("ours", PEERS, ids=lambda function: function.__name__)
def test_adjustments_against_torchvision(ours, images: Tensor) -> None:
    low, high = (-0.5, 0.5) if ours is color.adjust_hue else (0.0, 2.0)
    parameters = torch.linspace(low, high, len(images))
    adjusted = ours(images, parameters)
    for image, parameter, result in zip(images, parameters.tolist(), adjusted, strict=True):
        torch.testing.assert_close(result, PEERS[ours](image, parameter), **GREY_TOLERANCE)


def test_adjustments_in_any_order_against_torchvision() -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = torch.rand(len(orders), 3, 6, 6, generator=seeded())
    parameters = [torch.rand(len(orders), generator=seeded(index)) + 0.5 for index in range(3)]
    parameters.append(torch.rand(len(orders), generator=seeded(3)) - 0.5)
    adjustments = list(zip(PEERS, parameters, strict=True))
    results = color.apply_in_order(images, adjustments, orders)
    for row, order in enumerate(orders.tolist()):
        expected = images[row]
        for index in order:
            expected = PEERS[adjustments[index][0]](expected, float(parameters[index][row]))
        torch.testing.assert_close(results[row], expected, atol=1e-3, rtol=0.0)


def test_jitter_draws_within_its_ranges_for_each_image() -> None:
    images = torch.full((500, 3, 2, 2), 0.25)
    before = images.clone()
    factors = color.color_jitter(images, 0.4, 0.0, 0.0, 0.0, seeded())[:, 0, 0, 0] / 0.25
    assert 0.6 <= factors.min() < 0.62 and 1.38 < factors.max() <= 1.4
    assert torch.equal(images, before)
    assert torch.equal(color.color_jitter(images, 0.0, 0.0, 0.0, 0.0, seeded()), images)
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(300, 3, 1, 1)
    turned = color.color_jitter(red, 0, 0, 0, 0.1, seeded())[:, :, 0, 0].tolist()
    hues = torch.tensor([(colorsys.rgb_to_hsv(*pixel)[0] + 0.5) % 1 - 0.5 for pixel in turned])
    assert -0.1 <= hues.min() < -0.095 and 0.095 < hues.max() <= 0.1


def test_orders_are_drawn_evenly_for_each_image() -> None:
    """Brightness before contrast and after it give different pictures; half of the images have each."""
    image = torch.tensor([0.9, 0.1])[None, None, :, None].expand(400, 3, 2, 1).clone()
    adjustments = [(color.adjust_brightness, torch.full((400,), 1.5)), (color.adjust_contrast, torch.full((400,), 0.2))]
    first, second = (
        color.apply_in_order(image[:1], [(f, p[:1]) for f, p in adjustments], torch.tensor([order]))
        for order in ([0, 1], [1, 0])
    )
    assert not torch.allclose(first, second)
    order = torch.rand(400, 2, generator=seeded()).argsort(dim=1)
    results = color.apply_in_order(image, adjustments, order)
    in_first = [torch.allclose(result, first[0]) for result in results]
    assert in_first == (order[:, 0] == 0).tolist()
    assert 160 < sum(in_first) < 240


def test_grayscale(images: Tensor) -> None:
    grey = color.random_grayscale(images, 1.0, seeded())
    torch.testing.assert_close(grey, tv.rgb_to_grayscale(images, 3), **GREY_TOLERANCE)
    assert torch.equal(color.random_grayscale(images, 0.0, seeded()), images)
    many = torch.rand(400, 3, 2, 2, generator=seeded())
    changed = (color.random_grayscale(many, 0.25, seeded(1)) != many).any(dim=1).any(dim=1).any(dim=1)
    assert 70 < int(changed.sum()) < 130


def test_blur_against_torchvision(images: Tensor) -> None:
    sigmas = torch.linspace(0.1, 2.0, len(images))
    blurred = color.gaussian_blur(images, sigmas, 7)
    for image, sigma, result in zip(images, sigmas.tolist(), blurred, strict=True):
        torch.testing.assert_close(result, tv.gaussian_blur(image, [7, 7], [sigma, sigma]), atol=1e-6, rtol=1e-5)


def test_lightness_is_inverted_and_nothing_else(images: Tensor) -> None:
    inverted = color.invert_lightness(images)
    pixels = zip(
        images.movedim(1, 3).reshape(-1, 3).tolist(), inverted.movedim(1, 3).reshape(-1, 3).tolist(), strict=True
    )
    for before, after in itertools.islice(pixels, 0, None, 7):
        hue, lightness, saturation = colorsys.rgb_to_hls(*before)
        assert after == pytest.approx(colorsys.hls_to_rgb(hue, 1 - lightness, saturation), abs=1e-5)


def test_the_background_takes_the_colour_and_dark_things_stay() -> None:
    images = torch.ones(2, 3, 1, 3)
    images[:, :, 0, 1] = torch.tensor([0.7, 0.2, 0.1])
    images[:, :, 0, 2] = 0.9  # halfway from the threshold to white
    colors = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]])
    result = color.recolor_background(images, colors)
    torch.testing.assert_close(result[:, :, 0, 0], colors)
    assert torch.equal(result[:, :, 0, 1], images[:, :, 0, 1])
    torch.testing.assert_close(result[:, :, 0, 2], 0.9 * (1 + colors) / 2)


def test_morphology_against_a_loop(images: Tensor) -> None:
    amounts = torch.linspace(-1, 1, len(images))
    results = color.morphology(images, amounts)
    H, W = images.shape[2:]
    for row, (y, x), channel in itertools.product(range(4, len(images)), [(0, 0), (4, 5), (H - 1, 3)], range(3)):
        near = images[row, channel, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        target = near.min() if amounts[row] < 0 else near.max()
        here = images[row, channel, y, x]
        torch.testing.assert_close(results[row, channel, y, x], here + amounts[row].abs() * (target - here))


def test_an_outline_has_lines_where_greys_differ_and_no_colour() -> None:
    image = torch.ones(1, 3, 7, 9)
    image[:, :, :, 4:] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    lines = color.outline(image)
    assert (lines[:, :, :, 3:5] < 0.1).all()
    assert (lines[:, :, :, :3] == 1).all() and (lines[:, :, :, 5:] == 1).all()
    assert torch.equal(lines[:, 0], lines[:, 2])


def test_shade_keeps_the_mean_and_rises_in_its_direction() -> None:
    images = torch.full((3, 3, 5, 5), 0.5)
    shaded = color.shade(images, torch.tensor([0.0, torch.pi / 2, torch.pi]), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(shaded.mean(dim=(1, 2, 3)), torch.full((3,), 0.5))
    assert shaded[0, 0, 2].tolist() == pytest.approx([0.25, 0.375, 0.5, 0.625, 0.75])
    assert shaded[1, 0, :, 2].tolist() == pytest.approx([0.25, 0.375, 0.5, 0.625, 0.75])
    assert torch.equal(shaded[2], images[2])


def test_luminance_is_in_between(images: Tensor) -> None:
    grey = luminance(images)[:, 0]
    assert (grey <= images.amax(dim=1) + 1e-6).all() and (grey >= images.amin(dim=1) - 1e-6).all()
