"""The denoising U-Net: residual blocks on three or four resolutions, told the time step and a text embedding.

After "Denoising Diffusion Probabilistic Models" (Ho et al. 2020) and "Improved Denoising Diffusion Probabilistic
Models" (Nichol and Dhariwal 2021: scale and shift from the context), with "Classifier-Free Diffusion Guidance" (Ho and
Salimans 2022). Deviations: no attention; channels are normalised by their root mean square instead of in groups; the
text is one vector, whose projection is added to that of the time. With a patch size, each patch of pixels is one
position of the network with that many times the channels ("Simple diffusion", Hoogeboom et al. 2023, section 3.2:
cheaper by the square of the patch size, with as many parameters but for the first and last convolution).

Dimensions: N batch, C channels, H and W pixels, E width of the text embedding, D width of the context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.nn.attention import Dropout


class SinusoidalTime(nn.Module):
    """Time steps (N,) to (N, dim): sines of dim/2 frequencies from 1 down to 1/10000, then their cosines."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        """Raises ValueError for a width of 2, which leaves no two frequencies to span the range with."""
        half = self.dim // 2
        if half < 2:
            raise ValueError(f"a U-Net of dim {self.dim} can be built but not run; the time needs a dim of at least 4")
        frequencies = torch.exp(torch.arange(half, device=time.device) * (-math.log(10000.0) / (half - 1)))
        angles = time[:, None].float() * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Downsample(nn.Conv2d):
    """Halves height and width by a convolution of kernel and stride 2."""

    def __init__(self, dim: int, dim_out: int | None = None) -> None:
        super().__init__(dim, dim_out or dim, kernel_size=2, stride=2)


class Upsample(nn.Sequential):
    """Doubles height and width bilinearly, then convolves 3x3."""

    def __init__(self, dim: int, dim_out: int | None = None) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(dim, dim_out or dim, kernel_size=3, padding=1)
        )


class RMSNorm(nn.Module):
    """Scales the channels of each pixel to a root mean square of `g` (1, C, 1, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # torch's own norm works on the last axis, where channels-last images have their channels anyway.
        channels_last = F.rms_norm(x.permute(0, 2, 3, 1), x.shape[1:2], self.g.flatten().to(x.dtype), eps=1e-24)
        return channels_last.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Convolution, norm, optionally a scale and shift from the context, GELU."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim_out, kernel_size=3, padding=1)
        self.norm = RMSNorm(dim_out)
        self.act = nn.GELU()

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) to (N, dim_out, H, W); scale and shift are (N, dim_out, 1, 1)."""
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = torch.addcmul(shift, x, scale + 1)
        return self.act(x)


class ResnetBlock(nn.Module):
    """Two blocks with dropout between them, added to the input; the context scales and shifts the first one."""

    def __init__(self, dim: int, dim_out: int, context_dim: int) -> None:
        super().__init__()
        self.dim, self.dim_out, self.context_dim = dim, dim_out, context_dim
        self.mlp = nn.Sequential(nn.GELU(), nn.Linear(context_dim, 2 * dim_out))
        self.block1 = Block(dim, dim_out)
        self.block2 = Block(dim_out, dim_out)
        self.res_conv = nn.Conv2d(dim, dim_out, kernel_size=1) if dim != dim_out else nn.Identity()
        self.dropout = Dropout(0.1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, dim, H, W) with context (N, D) to (N, dim_out, H, W)."""
        scale, shift = self.mlp(context)[:, :, None, None].chunk(2, dim=1)
        hidden = self.dropout(self.block1(x, (scale, shift)))
        return self.block2(hidden) + self.res_conv(x)


class Unet(nn.Module):
    """Predicts the noise in an image, or the image without it, of the same shape as its input."""

    def __init__(
        self,
        dim: int,
        condition_dim: int,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        uncond_prob: float = 0.2,
        patch_size: int = 1,
    ) -> None:
        """`dim` is the width at full resolution, `dim * dim_mults[i]` that after i + 1 halvings; `condition_dim` is the
        width E of the text embedding, which training leaves out with probability `uncond_prob`. A `patch_size` above
        one makes squares of that many pixels to a side into one before the first convolution, and takes them apart
        after the last.

        Raises ValueError for an odd `dim`, for no `dim_mults` and for a `patch_size` below one.
        """
        super().__init__()
        _refuse_senseless_sizes(dim, dim_mults, patch_size)
        self.channels = channels
        self.patch_size = patch_size
        self.condition_dim = condition_dim
        self.uncond_prob = uncond_prob
        widths = [dim, *(dim * mult for mult in dim_mults)]
        levels = list(zip(widths[:-1], widths[1:], strict=True))
        context_dim = 4 * dim
        patch_channels = channels * patch_size**2

        self.init_conv = nn.Conv2d(patch_channels, dim, kernel_size=3, padding=1)
        self.time_mlp = nn.Sequential(
            SinusoidalTime(dim), nn.Linear(dim, context_dim), nn.GELU(), nn.Linear(context_dim, context_dim)
        )
        self.condition_mlp = nn.Sequential(
            nn.Linear(condition_dim, context_dim), nn.GELU(), nn.Linear(context_dim, context_dim)
        )
        self.downs = nn.ModuleList()
        for narrow, wide in levels:
            blocks = (ResnetBlock(narrow, narrow, context_dim), ResnetBlock(narrow, narrow, context_dim))
            self.downs.append(nn.ModuleList([*blocks, Downsample(narrow, wide)]))
        self.mid_block1 = ResnetBlock(widths[-1], widths[-1], context_dim)
        self.mid_block2 = ResnetBlock(widths[-1], widths[-1], context_dim)
        self.ups = nn.ModuleList()
        for narrow, wide in reversed(levels):
            upsample = Upsample(wide, narrow)  # made first: the order decides what a seed gives as weights
            blocks = (ResnetBlock(2 * narrow, narrow, context_dim), ResnetBlock(2 * narrow, narrow, context_dim))
            self.ups.append(nn.ModuleList([upsample, *blocks]))
        self.final_conv = nn.Conv2d(dim, patch_channels, kernel_size=1)

    def forward(self, x: Tensor, time: Tensor, model_kwargs: Mapping[str, Any] | None = None) -> Tensor:
        """Images (N, C, H, W) at time steps (N,) to a prediction (N, C, H, W).

        `model_kwargs` may have `text_emb`, float (N, E) or None for no text (zeros), and `cfg_scale`, a number, for
        guidance: see `cfg_forward`. Other entries do not count, and the mapping is never changed. In training mode each
        embedding is left out with probability `uncond_prob`, by draws of torch's default CPU generator. Raises
        ValueError for sizes that cannot be patched and halved at every level, and for embeddings of another width or
        number.
        """
        kwargs = model_kwargs or {}
        if kwargs.get("cfg_scale") is not None:
            return self.cfg_forward(x, time, kwargs)
        return self._predict(x, time, kwargs.get("text_emb"))

    def cfg_forward(self, x: Tensor, time: Tensor, model_kwargs: Mapping[str, Any]) -> Tensor:
        """`(w + 1) * conditional - w * unconditional` for the `cfg_scale` w in `model_kwargs`.

        This is the convention of Ho and Salimans: w = 0 is the conditional prediction, w = -1 the unconditional one.
        The other usual convention, `unconditional + s * (conditional - unconditional)`, has s = w + 1. In evaluation
        mode both predictions are one batch of 2N; in training mode, where each of them draws random numbers, they are
        made one after the other. They are combined in float32 under autocast too: float16 overflows at large w.
        """
        scale = model_kwargs["cfg_scale"]
        text_emb = model_kwargs.get("text_emb")
        if self.training:
            conditional = self._predict(x, time, text_emb)
            unconditional = self._predict(x, time, None)
        elif scale == 0 or text_emb is None:
            return self._predict(x, time, text_emb)
        else:
            both = torch.cat([text_emb, torch.zeros_like(text_emb)])
            predicted = self._predict(torch.cat([x, x]), torch.cat([time, time]), both)
            conditional, unconditional = predicted.chunk(2)
        return (scale + 1) * conditional.float() - scale * unconditional.float()

    def _predict(self, x: Tensor, time: Tensor, text_emb: Tensor | None) -> Tensor:
        self._refuse_other_shapes(x, text_emb)
        context = self._context(time, text_emb, len(x))
        x = self.init_conv(F.pixel_unshuffle(x, self.patch_size))
        skips = []
        for level in self.downs:
            block1, block2, downsample = _parts(level)
            for block in (block1, block2):
                x = block(x, context)
                skips.append(x)
            x = downsample(x)
        x = self.mid_block1(x, context)
        x = self.mid_block2(x, context)
        for level in self.ups:
            upsample, block1, block2 = _parts(level)
            x = upsample(x)
            for block in (block1, block2):
                x = block(torch.cat([x, skips.pop()], dim=1), context)
        return F.pixel_shuffle(self.final_conv(x), self.patch_size)

    def _context(self, time: Tensor, text_emb: Tensor | None, count: int) -> Tensor:
        """(N, D) of time and text; in training mode some texts are left out."""
        context = self.time_mlp(time)
        if text_emb is None:
            text_emb = context.new_zeros(count, self.condition_dim)
        if self.training:
            kept = torch.rand(count) > self.uncond_prob
            text_emb = text_emb * kept.to(text_emb.device)[:, None]
        return context + self.condition_mlp(text_emb.to(context))  # tables hold their embeddings in float16

    def _refuse_other_shapes(self, x: Tensor, text_emb: Tensor | None) -> None:
        factor = self.patch_size * 2 ** len(self.downs)
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"images of shape {tuple(x.shape)}; this U-Net takes (N, {self.channels}, H, W) with H and W divisible "
                f"by {factor}, because it halves them {len(self.downs)} times after patches of {self.patch_size}"
            )
        if text_emb is not None and text_emb.shape != (len(x), self.condition_dim):
            raise ValueError(
                f"text embeddings of shape {tuple(text_emb.shape)}; this U-Net takes ({len(x)}, {self.condition_dim})"
            )


def _refuse_senseless_sizes(dim: int, dim_mults: Sequence[int], patch_size: int) -> None:
    if dim < 2 or dim % 2 != 0:
        raise ValueError(f"dim must be an even number above zero, not {dim}")
    if not dim_mults:
        raise ValueError("dim_mults must name at least one level")
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, not {patch_size}")


def _parts(level: nn.Module) -> list[nn.Module]:
    assert isinstance(level, nn.ModuleList)
    return list(level)
