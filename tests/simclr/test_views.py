"""Views of images, sample by sample against torchvision's functional operations with the same parameters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tv
from torch import Generator, Tensor

from opsin.config import from_dict
from opsin.errors import ConfigError
from opsin.images.geometry import random_resized_crop
from opsin.simclr.config import AugmentConfig, SimclrConfig
from opsin.simclr.data import random_view, two_views

NOTHING = AugmentConfig(min_crop=1.0, flip=False, jitter=0.0, grayscale=0.0)
GREY_TOLERANCE = {"atol": 2e-4, "rtol": 0.0}  # torchvision weighs red with 0.2989, Pillow and we with 0.299


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(40, 3, 16, 16, generator=seeded(9))


def view_one_by_one(images: Tensor, size: int, config: AugmentConfig, generator: Generator) -> Tensor:
    """The same draws, in the same order, of which torchvision then makes a view of each image."""
    count = len(images)
    crops = random_resized_crop(images, size, generator, scale=(config.min_crop, 1.0))  # tested with geometry
    mirrored = torch.rand(count, generator=generator) < 0.5
    jittered = (torch.rand(count, generator=generator) < config.jitter).nonzero()[:, 0].tolist()
    extents = (config.brightness, config.contrast, config.saturation)
    factors = [1 - extent + 2 * extent * torch.rand(len(jittered), generator=generator) for extent in extents]
    factors.append(2 * config.hue * torch.rand(len(jittered), generator=generator) - config.hue)
    order = torch.rand(len(jittered), 4, generator=generator).argsort(dim=1).tolist()
    grey = torch.rand(count, generator=generator) < config.grayscale
    blurred = (torch.rand(count, generator=generator) < config.blur).nonzero()[:, 0].tolist()
    sigmas = size * (0.1 + 1.9 * torch.rand(len(blurred), generator=generator)) / 224
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    views = []
    for index, view in enumerate(crops):
        if mirrored[index]:
            view = tv.horizontal_flip(view)
        if index in jittered:
            place = jittered.index(index)
            for turn in order[place]:
                view = adjust[turn](view, float(factors[turn][place]))
        if grey[index]:
            view = tv.rgb_to_grayscale(view, 3)
        if index in blurred:
            kernel = 2 * round(0.1 * size / 2) + 1
            view = tv.gaussian_blur(view, [kernel, kernel], [float(sigmas[blurred.index(index)])] * 2)
        views.append(view)
    return torch.stack(views)


@pytest.mark.parametrize("size", [16, 60])
def test_views_against_torchvision(images: Tensor, size: int) -> None:
    config = AugmentConfig(blur=0.5)
    ours = random_view(images, size, config, seeded())
    torch.testing.assert_close(ours, view_one_by_one(images, size, config, seeded()), atol=2e-3, rtol=0.0)
    assert ours.min() >= 0 and ours.max() <= 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, lambda image: image),
        ({"grayscale": 1.0}, lambda image: tv.rgb_to_grayscale(image, 3)),
        ({"jitter": 1.0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}, lambda image: image),
    ],
    ids=["nothing", "grey", "jitter of nothing"],
)
def test_single_changes(images: Tensor, change: dict, expected) -> None:
    whole = torch.stack([expected(image) for image in images])
    views = random_view(images, 16, dataclasses.replace(NOTHING, **change), seeded())
    torch.testing.assert_close(views, whole, **GREY_TOLERANCE)


def test_two_views_of_each_image_differ_and_belong_together(images: Tensor) -> None:
    before = images.clone()
    left, right = two_views(images, 12, AugmentConfig(), seeded()).chunk(2)
    assert left.shape == right.shape == (40, 3, 12, 12)
    assert torch.equal(images, before)
    assert ((left - right).abs().amax(dim=(1, 2, 3)) > 0.01).all()
    flat = torch.rand(40, 3, 1, 1, generator=seeded(2)).expand(-1, -1, 16, 16)
    first, second = two_views(flat, 8, dataclasses.replace(AugmentConfig(), jitter=0, grayscale=0), seeded()).chunk(2)
    torch.testing.assert_close(first, flat[:, :, :8, :8])
    torch.testing.assert_close(second, flat[:, :, :8, :8])


def test_shares_are_those_asked_for() -> None:
    """Each view draws for itself whether it is mirrored, changed in colour, and grey."""
    image = torch.rand(3, 4, 4, generator=seeded())
    many = image.expand(2000, -1, -1, -1)
    whole = {"min_crop": 1.0, "jitter": 0.0, "grayscale": 0.0, "flip": False}
    mirrored = random_view(
        torch.linspace(0, 1, 4).expand(2000, 3, 4, 4), 4, AugmentConfig(**{**whole, "flip": True}), seeded()
    )
    assert 0.46 < float((mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, 3]).float().mean()) < 0.54
    grey = random_view(many, 4, AugmentConfig(**{**whole, "grayscale": 0.2}), seeded())
    assert 0.17 < float((grey[:, 0] == grey[:, 1]).all(dim=2).all(dim=1).float().mean()) < 0.23
    jittered = random_view(many, 4, AugmentConfig(**{**whole, "jitter": 0.8}), seeded())
    plain = random_view(many, 4, AugmentConfig(**whole), seeded())
    changed = (jittered - plain).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 0.77 < float(changed.float().mean()) < 0.83


def test_the_same_generator_gives_the_same_views(images: Tensor) -> None:
    config = AugmentConfig(blur=0.5)
    assert torch.equal(two_views(images, 16, config, seeded(1)), two_views(images, 16, config, seeded(1)))
    assert not torch.equal(two_views(images, 16, config, seeded(1)), two_views(images, 16, config, seeded(2)))


@pytest.mark.parametrize("side", [1, 2, 5])
def test_tiny_and_single_images(side: int) -> None:
    views = two_views(torch.rand(1, 3, side, side, generator=seeded()), side, AugmentConfig(blur=1.0), seeded())
    assert views.shape == (2, 3, side, side) and views.isfinite().all()


def test_mixed_precision_changes_no_view(images: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = two_views(images, 16, AugmentConfig(blur=0.5), seeded())
    torch.testing.assert_close(mixed, two_views(images, 16, AugmentConfig(blur=0.5), seeded()), atol=1e-5, rtol=0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_are_made_where_the_images_are(images: Tensor) -> None:
    views = two_views(images.cuda(), 16, AugmentConfig(blur=0.5), Generator("cuda").manual_seed(0))
    assert views.is_cuda and views.isfinite().all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"augment": {"jitter": 1.5}}, "jitter must be at least 0 and at most 1, not 1.5"),
        ({"augment": {"hue": 0.6}}, "hue must be at least 0 and at most 0.5"),
        ({"augment": {"min_crop": 0.0}}, "min_crop must be above 0 and at most 1, not 0.0"),
        ({"augment": {"contrast": -1.0}}, "contrast must be at least 0"),
        ({"augment": {"view_size": 0}}, "view_size must be at least 1"),
        ({"image_size": 64, "augment": {"view_size": 16}}, "view_size must be at least 17 for a ResNet .* not 16"),
        ({"image_size": 4}, "image_size must be at least 5"),
        ({"augment": {"view_size": 16}, "encoder": {"name": "vit"}}, r"view_size \(16\) must be image_size \(32\)"),
        ({"encoder": {"name": "vit", "patch_size": 5}}, "must be divisible by patch_size"),
        ({"encoder": {"name": "vit", "num_heads": 5}}, "must be divisible by num_heads"),
        ({"encoder": {"name": "resnet19"}}, "should be one of 'resnet18', 'resnet50', 'vit', not 'resnet19'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"projection_dim": 0}, "projection_dim must be at least 1"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
        ({"training": {"max_steps": 1, "batch_size": 1}}, "batch_size must be at least 2"),
        ({"training": {"max_steps": 1, "batch_size": 4, "accumulate": 2}}, "accumulate must be 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_run(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(SimclrConfig, setting)


def test_a_blur_is_in_proportion_to_the_view() -> None:
    """A dot becomes wider in larger views only; at 32 pixels the paper's blur hardly shows."""
    dots = torch.zeros(60, 3, 64, 64)
    dots[:, :, 32, 32] = 1
    blur = dataclasses.replace(NOTHING, blur=1.0)
    peaks = []
    for size in (32, 224):
        large = F.interpolate(dots, (size, size), mode="nearest")
        peaks.append(float((random_view(large, size, blur, seeded()) > 0.01)[:, 0].sum(dim=(1, 2)).float().mean()))
    assert peaks[1] > 2 * peaks[0]
