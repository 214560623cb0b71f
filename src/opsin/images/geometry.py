"""Places and shapes in whole batches, changed with parameters of each sample, on the images' device.

Images are float (N, 3, H, W) in [0, 1] before normalisation, and so are results.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from opsin.images.color import uniform

TRIES = 10


def random_affine(
    images: Tensor,
    generator: Generator,
    *,
    degrees: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    translate: float = 0.0,
    bend: float = 0.0,
) -> Tensor:
    """Turn each image by up to `degrees` either way, scale it, shift it by up to a share `translate` of its side each
    way, and bend it: each of 4 x 4 points moves by up to a share `bend` of the side, and what is between them along.

    Scales are drawn evenly on a logarithmic scale. The border is continued outwards by its own pixels.
    """
    count, _, H, W = images.shape
    angle = uniform(count, -math.radians(degrees), math.radians(degrees), generator)
    size = uniform(count, math.log(scale[0]), math.log(scale[1]), generator).exp()
    shift = 2 * uniform(2 * count, -translate, translate, generator).view(2, count)
    matrices = affine_matrices(angle, size, shift[0], shift[1], aspect=H / W)
    grid = _affine_grid(matrices.to(images.device), [count, 3, H, W])
    if bend > 0:
        moves = 2 * uniform(count * 2 * 16, -bend, bend, generator).view(count, 2, 4, 4).to(images.device)
        smooth = F.interpolate(moves, (H, W), mode="bicubic", align_corners=True)
        grid = grid + smooth.permute(0, 2, 3, 1)
    return _sample(images, grid)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Affine warp about the centre, continued by reflection.

    `matrices` (N, 2, 3) lead from places in the result to places in `images`, as (x, y); their linear part is in
    pixels, the shift in halves of the width and of the height.
    """
    H, W = images.shape[-2:]
    # The kernel counts from -1 to 1 both ways, so turning and shearing an oblong image needs its proportions.
    proportions = torch.tensor([[1, H / W, 1], [W / H, 1, 1]], dtype=images.dtype, device=images.device)
    return _sample(images, _affine_grid(matrices * proportions, list(images.shape)), padding_mode="reflection")


def affine_matrices(angle: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor, aspect: float = 1.0) -> Tensor:
    """(N, 2, 3) from places in the result to places in the image, both from -1 to 1, for `F.affine_grid`.

    The result shows the image turned clockwise by `angle` (radians), `scale` times as large, and then shifted right
    and down by these shares of half its side. `aspect` is its height over its width.
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack([cos, sin * aspect, -sin / aspect, cos], dim=1).view(-1, 2, 2)
    shift = torch.stack([shift_x, shift_y], dim=1)[:, None]
    moved = (linear * shift).sum(dim=2, keepdim=True)  # no matrix product, which autocast would round to bfloat16
    return torch.cat([linear, -moved], dim=2)


def random_resized_crop(
    images: Tensor,
    size: int,
    generator: Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """A random part of each image, resized to (N, 3, size, size), as torchvision's RandomResizedCrop draws it.

    The part has a share of the area within `scale` and a width-to-height ratio within `ratio`, evenly on a logarithmic
    scale; one that does not fit is drawn again, up to ten times. Where none fits, the part is the middle of the image,
    as large as the ratio allows. Deviation: its place and size are not rounded to whole pixels.
    """
    count, _, H, W = images.shape
    area = H * W * uniform(count * TRIES, *scale, generator)
    proportion = uniform(count * TRIES, math.log(ratio[0]), math.log(ratio[1]), generator).exp()
    widths, heights = (area * proportion).sqrt().view(count, TRIES), (area / proportion).sqrt().view(count, TRIES)
    fits = (widths <= W) & (heights <= H)
    some, first = fits.max(dim=1)  # of equal ones max gives the first
    width = widths.gather(1, first[:, None])[:, 0].where(some, min(W, H * ratio[1]))
    height = heights.gather(1, first[:, None])[:, 0].where(some, min(H, W / ratio[0]))
    left = uniform(count, 0, 1, generator).where(some, 0.5) * (W - width)
    top = uniform(count, 0, 1, generator).where(some, 0.5) * (H - height)
    return resized_crop(images, torch.stack([top, left, height, width], dim=1).to(images.device), size)


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The part of each image in its box (N, 4) of top, left, height and width in pixels, as (N, 3, size, size).

    Bilinear. Where parts are more than `size` pixels large it skips pixels, as resizing without antialiasing does.
    """
    H, W = images.shape[2:]
    top, left, height, width = boxes.unbind(dim=1)
    zero = torch.zeros_like(top)
    rows = torch.stack([width / W, zero, (2 * left + width) / W - 1], dim=1)
    columns = torch.stack([zero, height / H, (2 * top + height) / H - 1], dim=1)
    matrices = torch.stack([rows, columns], dim=1)
    return _sample(images, _affine_grid(matrices, [len(images), 3, size, size]))


def _affine_grid(matrices: Tensor, shape: list[int]) -> Tensor:
    with torch.autocast(matrices.device.type, enabled=False):  # bfloat16 places are off by up to a pixel
        return F.affine_grid(matrices.float(), shape, align_corners=False)


def _sample(images: Tensor, grid: Tensor, padding_mode: str = "border") -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        sampled = F.grid_sample(
            images.float(), grid.float(), mode="bilinear", padding_mode=padding_mode, align_corners=False
        )
    return sampled.clamp(0, 1).to(images.dtype)  # interpolation can round to just above one
