"""Batch augmentation, sample by sample against torchvision, Pillow and plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode

import opsin.images.augment as augment
from opsin.images.augment import OPERATIONS, mix, random_augment, random_flip, random_shift
from opsin.images.color import luminance

STRENGTHS = torch.tensor([-1.0, -0.6, -0.1, 0.0, 0.25, 0.7, 1.0])
OBLONG = (14, 22)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def eight_bit_images(count: int, size: tuple[int, int] = OBLONG, seed: int = 0) -> Tensor:
    """Smooth pictures with noise, on the levels of 8 bits, some channels flat: uint8 (count, 3, H, W)."""
    generator = seeded(seed)
    coarse = torch.randint(256, (count, 3, 4, 4), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255)
    noisy = (smooth + 20 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).round()
    noisy[0, 1] = 137
    noisy[-1] = 255
    return noisy.to(torch.uint8)


@pytest.fixture
def images() -> Tensor:
    """One image per strength, float in [0, 1]."""
    return eight_bit_images(len(STRENGTHS)).float() / 255


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


# ------------------------------------------------------------------------------------------ flip and shift


def test_flip_against_each_sample() -> None:
    images = torch.rand(40, 3, 5, 7, generator=seeded())
    flipped = random_flip(images, seeded(1))
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(images, flipped, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 8 < sum(mirrored) < 32


def test_half_of_all_images_are_flipped() -> None:
    images = torch.arange(2.0).expand(10_000, 1, 1, 2)
    share = (random_flip(images, seeded())[:, 0, 0, 0] == 1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.02)


def shifted_by_hand(image: np.ndarray, padding: int, row: int, column: int) -> np.ndarray:
    H, W = image.shape[1:]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    return padded[:, row : row + H, column : column + W]


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (7, 7)])
def test_shift_is_a_crop_of_the_padded_image(size: tuple[int, int]) -> None:
    padding = 2
    images = torch.rand(200, 3, *size, generator=seeded())
    offsets = set()
    for before, after in zip(images.numpy(), random_shift(images, padding, seeded(1)).numpy(), strict=True):
        found = [
            (row, column)
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
            if np.array_equal(after, shifted_by_hand(before, padding, row, column))
        ]
        assert len(found) == 1
        offsets.update(found)
    assert len(offsets) == 25  # every offset occurs, rows and columns on their own


# ---------------------------------------------------------------------------------------------- operations


def test_list_of_operations() -> None:
    """All that this file compares with a peer, and no other."""
    assert {operation.__name__ for operation in OPERATIONS} == {
        *("_identity", "_auto_contrast", "_posterize", "_solarize"),
        *(name for name, _ in ENHANCEMENTS),
        *(name for name, _ in WARPS),
    }


ENHANCEMENTS = [
    ("_brightness", tv.adjust_brightness),
    ("_contrast", tv.adjust_contrast),
    ("_saturation", tv.adjust_saturation),
    ("_sharpness", tv.adjust_sharpness),
]


@pytest.mark.parametrize(("name", "peer"), ENHANCEMENTS)
def test_enhancements_against_torchvision(images: Tensor, name: str, peer: Any) -> None:
    result = getattr(augment, name)(images, STRENGTHS)
    for after, before, strength in zip(result, images, STRENGTHS.tolist(), strict=True):
        expected = peer(before, 1 + 0.9 * strength)
        torch.testing.assert_close(after, expected, atol=2e-4, rtol=0)  # torchvision's weight of red is 0.2989


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("_brightness", ImageEnhance.Brightness),
        ("_contrast", ImageEnhance.Contrast),
        ("_saturation", ImageEnhance.Color),
        ("_sharpness", ImageEnhance.Sharpness),
    ],
)
def test_enhancements_against_pillow(images: Tensor, name: str, peer: Any) -> None:
    """To the two levels that Pillow rounds away."""
    result = getattr(augment, name)(images, STRENGTHS)
    for after, before, strength in zip(result, images, STRENGTHS.tolist(), strict=True):
        expected = from_pil(peer(to_pil(before)).enhance(1 + 0.9 * strength))
        torch.testing.assert_close(after, expected, atol=2.01 / 255, rtol=0)


def test_luminance_against_pillow(images: Tensor) -> None:
    for grey, image in zip(luminance(images), images, strict=True):
        expected = torch.from_numpy(np.array(to_pil(image).convert("L"))).float() / 255
        torch.testing.assert_close(grey[0], expected, atol=1.01 / 255, rtol=0)


def test_auto_contrast(images: Tensor) -> None:
    result = augment._auto_contrast(images, STRENGTHS)
    for after, before in zip(result, images, strict=True):
        torch.testing.assert_close(after, tv.autocontrast(before))
        torch.testing.assert_close(after, from_pil(ImageOps.autocontrast(to_pil(before))), atol=1.01 / 255, rtol=0)
    assert torch.equal(result[0, 1], images[0, 1])  # a flat channel
    assert torch.equal(result[-1], images[-1])  # a white image


def test_auto_contrast_does_not_blow_up_rounding_errors() -> None:
    flat = torch.full((1, 3, 4, 4), 0.5)
    flat[..., 0, 0] += 1e-6
    torch.testing.assert_close(augment._auto_contrast(flat, torch.ones(1)), flat)


def test_posterize_against_torchvision_and_pillow(images: Tensor) -> None:
    result = augment._posterize(images, STRENGTHS)
    for after, before, strength in zip(result, images, STRENGTHS.tolist(), strict=True):
        bits = round(8 - 4 * abs(strength))
        expected = tv.posterize((before * 255).round().to(torch.uint8), bits)
        assert torch.equal((after * 255).round().to(torch.uint8), expected)
        torch.testing.assert_close(after, from_pil(ImageOps.posterize(to_pil(before), bits)))


def test_solarize_against_torchvision_and_pillow(images: Tensor) -> None:
    strengths = STRENGTHS * 0.999  # no threshold on a level of 8 bits, where the peers differ from each other
    result = augment._solarize(images, strengths)
    for after, before, strength in zip(result, images, strengths.tolist(), strict=True):
        if strength == 0:
            assert torch.equal(after, before)
            continue
        threshold = 1 - abs(strength)
        torch.testing.assert_close(after, tv.solarize(before, threshold))
        torch.testing.assert_close(after, from_pil(ImageOps.solarize(to_pil(before), math.ceil(255 * threshold))))


def tv_affine(
    image: Tensor, *, angle: float = 0.0, x: float = 0.0, y: float = 0.0, scale: float = 1.0, shear: Any = (0.0, 0.0)
) -> tuple[Tensor, Tensor]:
    """torchvision's warp, and where it took all of a pixel from inside the image."""

    def warp(pixels: Tensor) -> Tensor:
        return tv.affine(pixels, angle, [x, y], scale, list(shear), InterpolationMode.BILINEAR, fill=[0.0])

    return warp(image), warp(torch.ones_like(image)) > 1 - 1e-6


def shear_degrees(strength: float) -> float:
    return math.degrees(math.atan(0.3 * strength))


WARPS = [
    ("_rotate", lambda image, s: tv_affine(image, angle=-30 * s)),  # torchvision's affine turns clockwise
    ("_shear_x", lambda image, s: tv_affine(image, shear=(shear_degrees(s), 0.0))),
    ("_shear_y", lambda image, s: tv_affine(image, shear=(0.0, shear_degrees(s)))),
    ("_translate_x", lambda image, s: tv_affine(image, x=-0.3 * s * image.shape[-1])),
    ("_translate_y", lambda image, s: tv_affine(image, y=-0.3 * s * image.shape[-2])),
    ("_scale", lambda image, s: tv_affine(image, scale=1 / (1 + 0.3 * s))),
]


@pytest.mark.parametrize("size", [OBLONG, (22, 14), (16, 16)])
@pytest.mark.parametrize(("name", "peer"), WARPS)
def test_warps_against_torchvision(name: str, peer: Any, size: tuple[int, int]) -> None:
    images = eight_bit_images(len(STRENGTHS), size).float() / 255
    result = getattr(augment, name)(images, STRENGTHS)
    for after, before, strength in zip(result, images, STRENGTHS.tolist(), strict=True):
        expected, inside = peer(before, strength)
        assert inside.float().mean() > 0.4
        torch.testing.assert_close(after[inside], expected[inside], atol=1e-3, rtol=0)


def test_shift_by_whole_pixels_continues_by_reflection() -> None:
    image = torch.arange(10.0).expand(1, 3, 2, 10) / 10
    shifted = augment._translate_x(image, torch.tensor([2 / 3]))  # 0.2 of the width
    torch.testing.assert_close(shifted[0, 0, 0] * 10, torch.tensor([2.0, 3, 4, 5, 6, 7, 8, 9, 9, 8]))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_every_operation(operation: Any, images: Tensor) -> None:
    """Samples do not touch each other, the range is kept, nothing is written into the input, zero does nothing."""
    before = images.clone()
    result = operation(images, STRENGTHS)
    assert torch.equal(images, before)
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.min() >= 0
    assert result.max() <= 1
    for index in range(len(images)):
        alone = operation(images[index : index + 1], STRENGTHS[index : index + 1])
        torch.testing.assert_close(result[index : index + 1], alone)
    if operation.__name__ != "_auto_contrast":  # it has no strength
        torch.testing.assert_close(operation(images, torch.zeros(len(images))), images, atol=1e-5, rtol=0)
        assert operation.__name__ == "_identity" or not torch.allclose(result[1], images[1], atol=0.01)


# ------------------------------------------------------------------------------------------- random_augment


def test_each_sample_takes_an_operation_and_strength_of_its_own() -> None:
    """One image many times: the results are those of single operations, and hardly any two are alike."""
    image = eight_bit_images(3)[1:2].float() / 255
    result = random_augment(image.repeat(60, 1, 1, 1), 1, 1.0, seeded())
    generator = seeded()
    choice = torch.randint(len(OPERATIONS), (60,), generator=generator)
    strength = 2 * torch.rand(60, generator=generator) - 1
    for index in range(60):
        expected = OPERATIONS[choice[index]](image, strength[index : index + 1])
        torch.testing.assert_close(result[index : index + 1], expected)
    assert len(set(choice.tolist())) == len(OPERATIONS)
    assert len({sample.numpy().tobytes() for sample in result}) > 40


def test_autocast_of_a_training_step_changes_nothing(images: Tensor) -> None:
    plain = [operation(images, torch.linspace(-1, 1, len(images))) for operation in OPERATIONS]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = [operation(images, torch.linspace(-1, 1, len(images))) for operation in OPERATIONS]
    for one, other in zip(plain, cast, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_operations_follow_each_other() -> None:
    images = eight_bit_images(30).float() / 255
    generator = seeded(3)
    once = random_augment(images, 1, 0.7, generator)
    torch.testing.assert_close(random_augment(images, 2, 0.7, seeded(3)), random_augment(once, 1, 0.7, generator))
    assert torch.equal(random_augment(images, 0, 0.7, seeded(3)), images)


def test_magnitude_bounds_the_strength() -> None:
    """Brightness changes by at most 0.9 times the magnitude, either way, and nearly as much now and then."""
    grey = torch.full((2000, 3, 4, 4), 0.5)
    result = random_augment(grey, 1, 0.4, seeded())
    changes = (result[:, 0, 0, 0] / 0.5 - 1)[torch.randint(len(OPERATIONS), (2000,), generator=seeded()) == 1]
    assert changes.abs().max() <= 0.9 * 0.4 + 1e-5
    assert changes.min() < -0.3
    assert changes.max() > 0.3


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 5),
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    ops=st.integers(1, 4),
    magnitude=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_range_is_kept(count: int, height: int, width: int, ops: int, magnitude: float, seed: int) -> None:
    images = torch.rand(count, 3, height, width, generator=seeded(seed)).round(decimals=1)
    result = random_augment(images, ops, magnitude, seeded(seed))
    assert result.shape == images.shape
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1


# --------------------------------------------------------------------------------------------------- mixing


def ones_and_targets(count: int, size: tuple[int, int] = (8, 12), classes: int = 4) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, *size, generator=seeded(5))
    labels = torch.randint(classes, (count,), generator=seeded(6))
    return images, torch.nn.functional.one_hot(labels, classes).float()


def partners(count: int, seed: int) -> Tensor:
    """The first draw of `mix`."""
    return torch.randperm(count, generator=seeded(seed))


def test_mixing_off() -> None:
    images, targets = ones_and_targets(4)
    generator = seeded()
    state = generator.get_state()
    mixed, mixed_targets = mix(images, targets, 0.0, 0.0, generator)
    assert mixed is images
    assert mixed_targets is targets
    assert torch.equal(generator.get_state(), state)


def test_mixup_against_each_sample() -> None:
    images, targets = ones_and_targets(50)
    mixed, mixed_targets = mix(images, targets, 0.8, 0.0, seeded(1))
    shares = []
    for index, partner in enumerate(partners(50, 1).tolist()):
        if partner == index:
            assert torch.allclose(mixed[index], images[index])
            continue
        first, second, result = (x.double().flatten() for x in (images[index], images[partner], mixed[index]))
        difference = first - second
        share = float((result - second) @ difference / (difference @ difference))  # least squares
        torch.testing.assert_close(result, share * first + (1 - share) * second, atol=1e-6, rtol=0)
        expected = share * targets[index].double() + (1 - share) * targets[partner].double()
        torch.testing.assert_close(mixed_targets[index].double(), expected, atol=1e-5, rtol=0)
        shares.append(share)
    assert len({round(share, 4) for share in shares}) > 40
    assert all(0 <= share <= 1 for share in shares)


def test_cutmix_against_each_sample() -> None:
    images, targets = ones_and_targets(60)
    mixed, mixed_targets = mix(images, targets, 0.0, 1.0, seeded(1))
    areas = []
    for index, partner in enumerate(partners(60, 1).tolist()):
        if partner == index:
            assert torch.equal(mixed[index], images[index])
            continue
        from_second = (mixed[index] == images[partner]).all(dim=0)
        assert torch.equal(mixed[index], torch.where(from_second, images[partner], images[index]))
        rows, columns = from_second.any(dim=1), from_second.any(dim=0)
        assert torch.equal(from_second, rows[:, None] & columns[None])  # a rectangle ...
        for line in (rows, columns):
            inside = line.nonzero()[:, 0]
            assert len(inside) == 0 or len(inside) == inside[-1] - inside[0] + 1  # ... without gaps
        area = from_second.float().mean().item()
        expected = (1 - area) * targets[index] + area * targets[partner]
        torch.testing.assert_close(mixed_targets[index], expected)
        areas.append(area)
    assert len(set(areas)) > 20
    assert max(areas) > 0.5


def test_both_take_turns() -> None:
    images, targets = torch.eye(2).repeat(500, 1)[:, :, None, None].expand(-1, -1, 4, 4), torch.zeros(1000, 1)
    mixed, _ = mix(images, targets, 1.0, 1.0, seeded())
    blended = ((mixed > 0) & (mixed < 1)).any(dim=(1, 2, 3))
    # Half the samples meet one of their own kind, and look the same either way.
    assert blended.float().mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.2, 1.0), (0.05, 0.05)])
def test_targets_stay_probabilities(mixup: float, cutmix: float) -> None:
    images, targets = ones_and_targets(300, size=(4, 6))
    kept = images.clone(), targets.clone()
    mixed, mixed_targets = mix(images, targets, mixup, cutmix, seeded())
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(300))
    assert mixed_targets.min() >= 0
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    """Mean one half, variance 1 / (4 (2 alpha + 1))."""
    shares = augment._beta(alpha, 20_000, seeded())
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_boxes_cover_what_was_asked_unless_cut_off() -> None:
    area = torch.full((4000,), 0.25)
    covered = augment._random_boxes(area, 100, 60, seeded()).float().mean(dim=(1, 2))
    assert covered.max().item() == pytest.approx(0.25, abs=0.01)
    # Half the side each way of a centre anywhere: on average 1 - side / 4 of each side is inside.
    assert covered.mean().item() == pytest.approx((0.5 * (1 - 0.5 / 4)) ** 2, rel=0.02)
    assert not augment._random_boxes(torch.zeros(5), 8, 8, seeded()).any()


# --------------------------------------------------------------------------------------- all of them at once


def flip(images: Tensor, generator: Generator) -> Tensor:
    return random_flip(images, generator)


def shift(images: Tensor, generator: Generator) -> Tensor:
    return random_shift(images, 3, generator)


def operations(images: Tensor, generator: Generator) -> Tensor:
    return random_augment(images, 2, 1.0, generator)


def mixing(images: Tensor, generator: Generator) -> Tensor:
    return mix(images, torch.eye(len(images)), 0.5, 0.5, generator)[0]


@pytest.mark.parametrize("function", [flip, shift, operations, mixing])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_common_rules(function: Any, dtype: torch.dtype) -> None:
    """Same seed, same result; samples are treated differently; dtype, shape and the caller's tensor are kept."""
    images = (eight_bit_images(2)[:1].float() / 255).to(dtype).repeat(16, 1, 1, 1)
    images[::2] = 1 - images[::2]  # something to mix with
    kept = images.clone()
    global_state = torch.get_rng_state()
    result = function(images, seeded(1))
    assert torch.equal(result, function(images, seeded(1)))
    assert not torch.equal(result, function(images, seeded(2)))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert result.dtype == dtype
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 1
    assert len({sample.float().numpy().tobytes() for sample in result[::2]}) > 1
