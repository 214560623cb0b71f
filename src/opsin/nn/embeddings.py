"""Turning positions and image patches into vectors.

Sinusoidal positions follow "Attention Is All You Need" (Vaswani et al. 2017, section 3.5); patches follow "An Image
is Worth 16x16 Words" (Dosovitskiy et al. 2021, section 3.1); the convolutional stem follows "Early Convolutions Help
Transformers See Better" (Xiao et al. 2021).

Dimensions: N batch, C channels, T tokens, P patches, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.nn.attention import Dropout


def sinusoidal_positions(length: int, embed_dim: int) -> Tensor:
    """Table (length, embed_dim): column 2i is sin(p · 10000^(-2i/D)) for position p, column 2i+1 its cosine."""
    if embed_dim % 2 != 0:
        raise ValueError(f"sinusoidal positions need an even embed_dim, not {embed_dim}")
    positions = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    frequencies = torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(10000.0) / embed_dim))
    angles = positions * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class PositionalEncoding(nn.Module):
    """Adds sinusoidal positions to a sequence, then drops out. Buffer `pe` (1, max_len, embed_dim) is saved."""

    pe: Tensor

    def __init__(self, embed_dim: int, dropout: float = 0.1, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        table = torch.empty(1, max_len, embed_dim)
        if not table.is_meta:  # arithmetic without memory makes torch import its compiler, which takes a second
            table = sinusoidal_positions(max_len, embed_dim).unsqueeze(0)
        self.register_buffer("pe", table)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(N, T, D) to (N, T, D), where the first token has position `start`; `start + T` may be at most `max_len`."""
        end = start + x.shape[1]
        if end > self.pe.shape[1]:
            raise ValueError(f"a sequence of {end} tokens exceeds the {self.pe.shape[1]} positions of this model")
        return self.dropout(x + self.pe[:, start:end])

    def table(self, length: int) -> Tensor:
        """The first positions, (1, length, D)."""
        return self.pe[:, :length]


class LearnedPositions(nn.Module):
    """Adds one learned vector per position, then drops out; initialised from a normal with deviation 0.02."""

    def __init__(self, embed_dim: int, length: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.positions = nn.Parameter(torch.empty(1, length, embed_dim))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) to (N, T, D); T must be the length given at construction, else ValueError."""
        if x.shape[1] != self.positions.shape[1]:  # one token would otherwise be broadcast to all positions
            raise ValueError(f"a sequence of {x.shape[1]} tokens, but {self.positions.shape[1]} learned positions")
        return self.dropout(x + self.positions)

    def table(self, length: int) -> Tensor:
        """The first positions, (1, length, D)."""
        return self.positions[:, :length]


def interpolate_positions(table: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Positions (1, prefix + G * G, D) of a square grid for another one, (1, prefix + rows * columns, D): bicubic, as
    of an image, in float32; the first `prefix` ones are those of no patch and stay."""
    side = math.isqrt(table.shape[1] - prefix)
    square = table[:, prefix:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:, :prefix], resized.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


class PatchEmbedding(nn.Module):
    """Cuts a square image into patches, row by row, and projects each, flattened as (channel, row, column)."""

    def __init__(self, img_size: int, patch_size: int, in_channels: int = 3, embed_dim: int = 128) -> None:
        super().__init__()
        if img_size % patch_size != 0:
            raise ValueError(f"img_size ({img_size}) must be divisible by patch_size ({patch_size})")
        self.in_channels = in_channels
        self.img_size = img_size
        self.patch_size = patch_size
        self.grid_size = img_size // patch_size
        self.proj = nn.Linear(patch_size * patch_size * in_channels, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, img_size, img_size) to (N, P, D); ValueError for any other shape."""
        check_image_shape(images, self.in_channels, self.img_size)
        return self.tokens(images)

    def tokens(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, P, D) for sides of any number of patches."""
        N, C, H, W = images.shape
        p = self.patch_size
        patches = images.reshape(N, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)  # (N, row, column, C, p, p)
        return self.proj(patches.reshape(N, -1, C * p * p))


class ConvStem(nn.Module):
    """Patches by a stack of 3x3 convolutions instead of one linear map: a stronger start on small data sets.

    Two layers at full resolution and two more after each halving, down to one vector a patch, each with batch norm and
    GELU; widths double with each halving up to `embed_dim`. A 1x1 convolution ends it. `patch_size` must be a power
    of two. Deviation from the paper: two layers a resolution instead of one.
    """

    def __init__(self, img_size: int, patch_size: int, in_channels: int = 3, embed_dim: int = 128) -> None:
        super().__init__()
        halvings = int(math.log2(patch_size))
        if 2**halvings != patch_size or img_size % patch_size != 0:
            raise ValueError(f"patch_size ({patch_size}) must be a power of two that divides img_size ({img_size})")
        self.in_channels = in_channels
        self.img_size = img_size
        self.grid_size = img_size // patch_size
        layers: list[nn.Module] = []
        channels = in_channels
        for index in range(halvings + 1):
            width = max(embed_dim // 2 ** (halvings - index), 16)
            layers += _conv_norm_gelu(channels, width, stride=1 if index == 0 else 2)
            layers += _conv_norm_gelu(width, width, stride=1)
            channels = width
        layers.append(nn.Conv2d(channels, embed_dim, kernel_size=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, img_size, img_size) to (N, P, D); ValueError for any other shape."""
        check_image_shape(images, self.in_channels, self.img_size)
        return self.tokens(images)

    def tokens(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, P, D) for sides of any number of patches."""
        images = images.contiguous(memory_format=torch.channels_last)
        return self.layers(images).flatten(2).transpose(1, 2)


def _conv_norm_gelu(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.GELU()]


def check_image_shape(images: Tensor, in_channels: int, img_size: int) -> None:
    """ValueError unless images are (N, in_channels, img_size, img_size)."""
    if images.ndim != 4 or images.shape[1:] != (in_channels, img_size, img_size):
        expected = f"(N, {in_channels}, {img_size}, {img_size})"
        raise ValueError(f"expected images of shape {expected}, got {tuple(images.shape)}")
