"""Augmentation of whole batches, with parameters drawn per sample, on whatever device the images are.

Images are float (N, 3, H, W) in [0, 1] before normalisation. The list of operations follows RandAugment (Cubuk et al.
2020); mixing follows mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from opsin.images.color import adjust_brightness, adjust_contrast, adjust_saturation, apply_in_order
from opsin.images.geometry import warp


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def random_shift(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Shift each image by up to `padding` pixels each way, continuing it by reflection (pad, then random crop)."""
    N, _, H, W = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect").permute(0, 2, 3, 1)
    offsets = torch.randint(2 * padding + 1, (2, N), generator=generator, device=images.device)
    rows = offsets[0, :, None] + torch.arange(H, device=images.device)
    columns = offsets[1, :, None] + torch.arange(W, device=images.device)
    samples = torch.arange(N, device=images.device)[:, None, None]
    return padded[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def vary(
    images: Tensor, generator: Generator, *, flip: bool, shift: int, augment_ops: int, augment_magnitude: float
) -> Tensor:
    """Mirrored (`flip`), shifted by up to `shift` pixels, and with so many operations, each where it is asked for."""
    if flip:
        images = random_flip(images, generator)
    if shift:
        images = random_shift(images, shift, generator)
    if augment_ops:
        images = random_augment(images, augment_ops, augment_magnitude, generator)
    return images


def random_augment(images: Tensor, num_ops: int, magnitude: float, generator: Generator) -> Tensor:
    """Apply `num_ops` operations to each image, drawn uniformly with replacement, as RandAugment does.

    `magnitude` in [0, 1] is the largest strength; each image draws its own, of either sign, up to it. Deviation from
    the paper: strengths are drawn instead of fixed.
    """
    for _ in range(num_ops):
        choice = torch.randint(len(OPERATIONS), (len(images),), generator=generator, device=images.device)
        draws = torch.rand(len(images), generator=generator, device=images.device)
        strength = (magnitude * (2 * draws - 1)).to(images.dtype)
        images = apply_in_order(images, [(operation, strength) for operation in OPERATIONS], choice[:, None])
    return images


def mix(
    images: Tensor, targets: Tensor, mixup_alpha: float, cutmix_alpha: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image with another one of the batch, and its target (N, K) of class probabilities likewise.

    With both alphas above zero each sample takes mixup or CutMix with equal chance; an alpha of zero switches that one
    off. The share of the first image is drawn per sample from Beta(alpha, alpha).
    """
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        return images, targets
    N, _, H, W = images.shape
    partner = torch.randperm(N, generator=generator, device=images.device)
    cutting = torch.rand(N, generator=generator, device=images.device) < 0.5
    if mixup_alpha <= 0 or cutmix_alpha <= 0:
        cutting = torch.full_like(cutting, cutmix_alpha > 0)
    share = torch.where(cutting, _beta(cutmix_alpha, N, generator), _beta(mixup_alpha, N, generator))
    boxes = _random_boxes(1 - share, H, W, generator)
    from_first = torch.where(cutting[:, None, None], (~boxes).float(), share[:, None, None])
    share = from_first.mean(dim=(1, 2))  # a box cut off by the border covers less than was drawn
    from_first = from_first[:, None].to(images.dtype)
    mixed = from_first * images + (1 - from_first) * images[partner]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[partner]


def _beta(alpha: float, count: int, generator: Generator) -> Tensor:
    """Draws from Beta(alpha, alpha), by two gamma variables (torch's Beta takes no generator)."""
    if alpha <= 0:
        return torch.ones(count, device=generator.device)
    concentration = torch.full((2, count), alpha, device=generator.device)
    gammas = torch._standard_gamma(concentration, generator=generator)
    return gammas[0] / gammas.sum(dim=0).clamp_min(1e-12)


def _random_boxes(area: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Boolean (N, H, W): a box of the given share of the area, centred anywhere, cut off at the border."""
    N = len(area)
    centre = torch.rand(2, N, generator=generator, device=area.device)
    half = area.clamp_min(0).sqrt() / 2
    rows = (torch.arange(height, device=area.device) + 0.5) / height
    columns = (torch.arange(width, device=area.device) + 0.5) / width
    inside_rows = (rows[None] - centre[0, :, None]).abs() < half[:, None]
    inside_columns = (columns[None] - centre[1, :, None]).abs() < half[:, None]
    return inside_rows[:, :, None] & inside_columns[:, None, :]


# ------------------------------------------------- operations: images (n, 3, H, W) and strengths (n,) in [-1, 1]


def _factors(strength: Tensor) -> Tensor:
    """0.1 to 1.9: more than one for a positive strength."""
    return 1 + 0.9 * strength


def _identity(images: Tensor, strength: Tensor) -> Tensor:
    return images


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return adjust_brightness(images, _factors(strength))


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return adjust_contrast(images, _factors(strength))


def _saturation(images: Tensor, strength: Tensor) -> Tensor:
    return adjust_saturation(images, _factors(strength))


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Pillow's smoothing: a 3x3 mean in which the centre counts five times; border pixels stay."""
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * images[..., 1:-1, 1:-1]) / 13
    return torch.lerp(smooth, images, _factors(strength)[:, None, None, None]).clamp(0, 1)


def _auto_contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; one that is flat at 8 bits stays as it is."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    half_a_level = 0.5 / 255
    stretched = (images - low) / (high - low).clamp_min(half_a_level)
    return torch.where(high - low < half_a_level, images, stretched)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keep the 8 to 4 highest bits of 8."""
    step = 2 ** (4 * strength.abs()).round()[:, None, None, None]
    return ((images * 255).round() / step).floor() * step / 255


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Invert what is brighter than a threshold; not what equals it, or a strength of zero would invert white."""
    return torch.where(images > (1 - strength.abs())[:, None, None, None], 1 - images, images)


def _matrices(
    a: Tensor | float,
    b: Tensor | float,
    tx: Tensor | float,
    c: Tensor | float,
    d: Tensor | float,
    ty: Tensor | float,
    like: Tensor,
) -> Tensor:
    entries = [
        torch.as_tensor(entry, dtype=like.dtype, device=like.device).expand_as(like) for entry in (a, b, tx, c, d, ty)
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (2, 3))


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    angle = strength * math.radians(30)
    return warp(images, _matrices(angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0, strength))


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    return warp(images, _matrices(1.0, 0.3 * strength, 0.0, 0.0, 1.0, 0.0, strength))


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    return warp(images, _matrices(1.0, 0.0, 0.0, 0.3 * strength, 1.0, 0.0, strength))


def _translate_x(images: Tensor, strength: Tensor) -> Tensor:
    return warp(images, _matrices(1.0, 0.0, 0.6 * strength, 0.0, 1.0, 0.0, strength))


def _translate_y(images: Tensor, strength: Tensor) -> Tensor:
    return warp(images, _matrices(1.0, 0.0, 0.0, 0.0, 1.0, 0.6 * strength, strength))


def _scale(images: Tensor, strength: Tensor) -> Tensor:
    return warp(images, _matrices(1 + 0.3 * strength, 0.0, 0.0, 0.0, 1 + 0.3 * strength, 0.0, strength))


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _identity,
    _brightness,
    _contrast,
    _saturation,
    _sharpness,
    _auto_contrast,
    _posterize,
    _solarize,
    _rotate,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _scale,
)
