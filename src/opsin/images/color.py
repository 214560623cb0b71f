"""Colours, sharpness and outlines of whole batches, changed with parameters of each sample, on the images' device.

Images are float (N, 3, H, W) in [0, 1] before normalisation, and so are results. Functions named after what they do
take parameters (N,); those named `random_…` draw them. The colour operations are torchvision's (and so SimCLR's, Chen
et al. 2020, appendix A).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Adjustment = tuple[Callable[[Tensor, Tensor], Tensor], Tensor]
"""A function of images (N, 3, H, W) and parameters (N,), with these."""


def random_rows(count: int, probability: float, generator: Generator) -> Tensor:
    """Row numbers of a batch of `count`, each with this probability, sorted; only they need to be computed."""
    return (torch.rand(count, generator=generator, device=generator.device) < probability).nonzero()[:, 0]


def uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """float32 (count,) between `low` and `high`."""
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


# -------------------------------------------------------------------------------------------------- colours


def luminance(images: Tensor) -> Tensor:
    """Grey values (N, 1, H, W) by the weights of ITU-R BT.601, as Pillow and torchvision use."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply by a factor."""
    return (images * _as_pixels(factors)).clamp(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply the distance to the image's mean grey."""
    grey = luminance(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(grey.expand_as(images), images, _as_pixels(factors)).clamp(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply the distance to each pixel's own grey."""
    return torch.lerp(luminance(images).expand_as(images), images, _as_pixels(factors)).clamp(0, 1)


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue, in the hexcone of HSV, by a share of the whole circle in [-0.5, 0.5]."""
    value, chroma = images.amax(dim=1), images.amax(dim=1) - images.amin(dim=1)
    red, green, blue = images.unbind(dim=1)
    safe = chroma.clamp_min(1e-8)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shifts[:, None, None]
    # Each channel is the value less a share of the chroma that depends on its distance from the hue.
    distances = torch.stack([(offset + hue).remainder(6) for offset in (5.0, 3.0, 1.0)], dim=1)
    share = torch.minimum(distances, 4 - distances).clamp(0, 1)
    return value[:, None] - chroma[:, None] * share


def color_jitter(
    images: Tensor, brightness: float, contrast: float, saturation: float, hue: float, generator: Generator
) -> Tensor:
    """The four adjustments, each image in its own random order.

    Factors are drawn between 1 - x and 1 + x (at least 0) for `brightness`, `contrast` and `saturation`, hue shifts
    between -`hue` and `hue`; an adjustment of 0 is left out.
    """
    count = len(images)
    adjustments: list[Adjustment] = []
    for adjust, extent in (
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
    ):
        if extent > 0:
            adjustments.append((adjust, uniform(count, max(0.0, 1 - extent), 1 + extent, generator)))
    if hue > 0:
        adjustments.append((adjust_hue, uniform(count, -hue, hue, generator)))
    order = torch.rand(count, len(adjustments), generator=generator, device=generator.device).argsort(dim=1)
    return apply_in_order(images, adjustments, order)


def apply_in_order(images: Tensor, adjustments: Sequence[Adjustment], order: Tensor) -> Tensor:
    """Apply functions with their parameters (N,) to each image in the order that its row of `order` (N, K) gives."""
    images = images.clone()
    for choice in order.unbind(dim=1):
        for index, (adjust, parameters) in enumerate(adjustments):
            rows = (choice == index).nonzero()[:, 0]
            if len(rows) > 0:
                images[rows] = adjust(images[rows], parameters[rows])
    return images


def random_grayscale(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Some images without colour."""
    rows = random_rows(len(images), probability, generator)
    return images.index_copy(0, rows, luminance(images[rows]).expand(-1, 3, -1, -1))


def gaussian_blur(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with its own standard deviation (N,), in pixels; continued by reflection.

    `kernel_size` is odd.
    """
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    weights = (-0.5 * (offsets / sigmas[:, None]) ** 2).exp()
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(images.dtype)  # (N, kernel_size)
    for dim, padding in ((3, (half, half, 0, 0)), (2, (0, 0, half, half))):
        padded = F.pad(images, padding, mode="reflect")
        size = images.shape[dim]
        images = sum(
            (padded.narrow(dim, place, size) * _as_pixels(weights[:, place]) for place in range(kernel_size)),
            start=torch.zeros((), dtype=images.dtype, device=images.device),
        )
    return images


# -------------------------------------------------------------------------------------- styles of drawing


def recolor_background(images: Tensor, colors: Tensor, threshold: float = 0.8) -> Tensor:
    """White turns into a colour (N, 3) of each image, and what is nearly white, from `threshold` on in all channels,
    is mixed with it in proportion. What else is as light as the background changes with it."""
    weight = ((images.amin(dim=1, keepdim=True) - threshold) / (1 - threshold)).clamp(0, 1)
    return torch.lerp(images, images * colors.to(images.dtype)[:, :, None, None], weight)


def invert_lightness(images: Tensor) -> Tensor:
    """Light turns dark and dark light, with the same hue and saturation (of HSL)."""
    return images + (1 - images.amax(dim=1, keepdim=True) - images.amin(dim=1, keepdim=True))


def morphology(images: Tensor, amounts: Tensor) -> Tensor:
    """Towards the darkest of the 3 x 3 neighbours for a negative amount (N,) in [-1, 1], which thickens dark outlines,
    and towards the lightest for a positive one, which takes them away."""
    lightest = F.max_pool2d(images, 3, stride=1, padding=1)
    darkest = -F.max_pool2d(-images, 3, stride=1, padding=1)
    target = torch.where(_as_pixels(amounts) < 0, darkest, lightest)
    return torch.lerp(images, target, _as_pixels(amounts).abs())


def outline(images: Tensor, gain: float = 1.5) -> Tensor:
    """A line drawing: dark where the grey value changes within 3 x 3 neighbours, white elsewhere, without colour."""
    grey = luminance(images)
    edges = F.max_pool2d(grey, 3, stride=1, padding=1) + F.max_pool2d(-grey, 3, stride=1, padding=1)
    return (1 - gain * edges).clamp(0, 1).expand_as(images)


def shade(images: Tensor, directions: Tensor, strengths: Tensor) -> Tensor:
    """Light that falls from a side: multiplied by a linear ramp with mean 1 that rises towards the angle `directions`
    (N,), in radians, and reaches 1 ± `strengths` (N,) at the ends of the image."""
    H, W = images.shape[2:]
    rows = torch.linspace(-1, 1, H, device=images.device)
    columns = torch.linspace(-1, 1, W, device=images.device)
    slope_x, slope_y = (strengths * directions.cos())[:, None], (strengths * directions.sin())[:, None]
    ramp = 1 + (slope_y * rows)[:, :, None] + (slope_x * columns)[:, None, :]
    return (images * ramp[:, None].to(images.dtype)).clamp(0, 1)


def _as_pixels(parameters: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1), which broadcasts over images."""
    return parameters[:, None, None, None]
