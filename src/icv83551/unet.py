"""The U-Net under the course's path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from opsin.diffusion.unet import Downsample, ResnetBlock, Upsample
from opsin.diffusion.unet import Unet as LibraryUnet

__all__ = ["Downsample", "ResnetBlock", "Unet", "Upsample"]


class Unet(LibraryUnet):
    """The library's network, which says the guidance scale when it changes, once for all steps of a sampling loop."""

    _last_scale: float | None = None

    def cfg_forward(self, x: Tensor, time: Tensor, model_kwargs: Mapping[str, Any]) -> Tensor:
        """See the library's method; prints the scale."""
        scale = model_kwargs["cfg_scale"]
        if scale != self._last_scale:
            print("Classifier-free guidance scale:", scale)
            self._last_scale = scale
        return super().cfg_forward(x, time, model_kwargs)
