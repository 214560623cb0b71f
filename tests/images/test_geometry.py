"""Affine changes and crops of batches, sample by sample against torchvision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tv
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from opsin.images import geometry


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def smooth_images(count: int, size: tuple[int, int]) -> Tensor:
    coarse = torch.rand(count, 3, 5, 5, generator=seeded())
    return F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("size", [(24, 24), (20, 32)])
def test_affine_against_torchvision(size: tuple[int, int]) -> None:
    """Inside the image, where the two continue it differently. torchvision's angles count clockwise too."""
    images = smooth_images(5, size)
    angles, scales = torch.tensor([0.0, 0.3, -0.5, 0.2, 1.0]), torch.tensor([1.0, 1.2, 1.5, 1.1, 1.7])
    shifts = torch.tensor([[2.0, 0.0, -3.0, 1.5, 0.0], [0.0, 3.0, 1.0, -2.5, 0.0]])  # pixels
    H, W = size
    matrices = geometry.affine_matrices(angles, scales, shifts[0] / (W / 2), shifts[1] / (H / 2), aspect=H / W)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    results = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    for row in range(len(images)):
        settings = {
            "angle": math.degrees(angles[row]),
            "translate": shifts[:, row].tolist(),
            "scale": float(scales[row]),
            "shear": [0.0, 0.0],
            "interpolation": InterpolationMode.BILINEAR,
        }
        expected = tv.affine(images[row], **settings)
        inside = tv.affine(torch.ones(1, H, W), **settings) > 0.9999  # elsewhere torchvision mixes black in
        assert inside.float().mean() > 0.5
        difference = (results[row] - expected).abs() * inside
        assert difference.max() < 1e-4


def test_random_affine_stays_within_its_ranges() -> None:
    images = smooth_images(6, (16, 16))
    assert torch.allclose(geometry.random_affine(images, seeded()), images, atol=1e-6)
    flat = torch.full((6, 3, 16, 16), 0.3)
    changed = geometry.random_affine(flat, seeded(), degrees=40, scale=(0.5, 2), translate=0.3, bend=0.1)
    torch.testing.assert_close(changed, flat)  # also where the image ends: no black corners
    dot = torch.zeros(400, 3, 33, 33)
    dot[:, :, 16, 16] = 1
    moved = geometry.random_affine(dot, seeded(), translate=0.25)[:, 0]
    places = torch.linspace(-0.5, 0.5, 33) * 32 / 33
    mass = moved.sum(dim=(1, 2)).clamp_min(1e-9)
    x = (moved.sum(dim=1) * places).sum(dim=1) / mass
    assert -0.25 <= x.min() < -0.22 and 0.22 < x.max() <= 0.25
    assert torch.equal(
        geometry.random_affine(images, seeded(3), bend=0.1), geometry.random_affine(images, seeded(3), bend=0.1)
    )


def test_bending_moves_things_by_no_more_than_was_said() -> None:
    ramp = torch.linspace(0, 1, 64).expand(50, 3, 64, 64).contiguous()
    bent = geometry.random_affine(ramp, seeded(), bend=0.1)
    moves = (bent - ramp).abs()
    # Between its 4 x 4 points the bicubic interpolation may go beyond their values a little.
    assert 0.08 < moves.max() < 0.1 * 1.5


@pytest.mark.parametrize(("size", "tolerance"), [(24, 1e-5), (40, 1e-5), (12, 1e-5)])
def test_crop_against_torchvision(size: int, tolerance: float) -> None:
    """Whole-pixel boxes; without antialiasing and, next to the box's border, where torchvision repeats its pixels."""
    images = smooth_images(4, (30, 44))
    boxes = torch.tensor([[0, 0, 30, 44], [3, 5, 12, 12], [10, 2, 15, 25], [6, 20, 24, 24]])
    results = geometry.resized_crop(images, boxes.float(), size)
    for image, box, result in zip(images, boxes.tolist(), results, strict=True):
        expected = tv.resized_crop(image, *box, size=[size, size], antialias=False)
        border = math.ceil(size / min(box[2:]))
        inner = slice(border, -border)
        torch.testing.assert_close(result[:, inner, inner], expected[:, inner, inner], atol=tolerance, rtol=0.0)


def drawn_boxes(count: int, H: int, W: int, scale: tuple[float, float]) -> Tensor:
    """Top, left, height and width in pixels of the parts that are cut out, (N, 4), as an image of places shows them."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, H), torch.linspace(0, 1, W), indexing="ij")
    places = torch.stack([rows, columns, torch.zeros(H, W)])[None].expand(count, -1, -1, -1)
    crops = geometry.random_resized_crop(places, 2, seeded(), scale=scale)
    assert crops.shape == (count, 3, 2, 2)
    sides = torch.tensor([H, W]) - 1
    first, second = crops[:, [0, 1], 0, 0] * sides, crops[:, [0, 1], 1, 1] * sides  # a quarter from each border
    extent = 2 * (second - first)
    return torch.cat([first + 0.5 - extent / 4, extent], dim=1)


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    """The mean area and the mean logarithm of the ratio agree with those of torchvision's own draws."""
    N, side = 4000, 64
    _, _, height, width = drawn_boxes(N, side, side, (0.2, 1.0)).unbind(dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, side, side)
        drawn = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(N)]
        ).float()
    assert float((height * width).mean()) == pytest.approx(float((drawn[:, 2] * drawn[:, 3]).mean()), rel=0.03)
    assert float((width / height).log().std()) == pytest.approx(
        float((drawn[:, 3] / drawn[:, 2]).log().std()), rel=0.05
    )
    assert (height * width).min() >= 0.19 * side**2


@pytest.mark.parametrize(("H", "W"), [(64, 64), (40, 50), (50, 40), (40, 90), (90, 40)])
def test_where_no_box_fits_it_is_torchvisions(H: int, W: int) -> None:
    """Of the whole area: the whole image, or its middle where it is wider or taller than the ratio allows. torchvision
    rounds to whole pixels, and so may find a box that fits."""
    boxes = drawn_boxes(20, H, W, (1.0, 1.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(torch.empty(3, H, W), [1.0, 1.0], [3 / 4, 4 / 3]) for _ in range(20)]
    torch.testing.assert_close(boxes, torch.tensor(drawn).float(), atol=1.0, rtol=0.0)
    ratio = min(max(W / H, 3 / 4), 4 / 3)
    torch.testing.assert_close(boxes[:, 3] / boxes[:, 2], torch.full((20,), ratio), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: geometry.random_resized_crop(images, 32, seeded()),
        lambda images: geometry.random_affine(images, seeded(), degrees=30, scale=(0.8, 1.2), translate=0.1, bend=0.1),
    ],
    ids=["crop", "affine"],
)
def test_mixed_precision_moves_nothing(change) -> None:
    images = torch.rand(8, 3, 32, 32, generator=seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = change(images)
    torch.testing.assert_close(mixed, change(images), atol=1e-5, rtol=0.0)
