"""Encoders from timm: DINO, DINOv2, supervised and other networks, as `timm:NAME` or `timm:NAME.TAG`."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from opsin.encoders.base import DenseNetworkEncoder
from opsin.errors import ConfigError
from opsin.hub import hub_file


class TimmEncoder(DenseNetworkEncoder):
    """A network of timm without its classifier, with the preprocessing that its weights were trained with.

    Patches are those of the image as that preprocessing crops it, without class and register tokens; of a
    convolutional network they are the places of its last feature map.
    """

    def __init__(self, name: str, network: nn.Module, device: torch.device) -> None:
        """`network` is what `timm.create_model(..., num_classes=0)` gives."""
        from timm.data import create_transform, resolve_model_data_config

        super().__init__(name, network, device)
        self._transform = create_transform(**resolve_model_data_config(network), is_training=False)

    def _prepare(self, image: Image.Image) -> Tensor:
        return self._transform(image)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.network(images)

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return patch_tokens(self.network, images)


def patch_tokens(network: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens (N, P, D) and their grid (rows, columns) from a network of timm, whatever layout its features have."""
    features = network.forward_features(images)
    if features.ndim == 3:
        tokens = features[:, getattr(network, "num_prefix_tokens", 0) :]
        rows, columns = network.patch_embed.dynamic_feat_size(images.shape[-2:])
        return tokens, (int(rows), int(columns))
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        features = features.permute(0, 3, 1, 2)
    return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])


def load_timm(name: str, device: torch.device) -> TimmEncoder:
    """The network that timm calls `name`, with its published weights.

    Raises ConfigError for a name that timm does not know or has no weights for, OfflineError when they cannot be had.
    """
    import timm

    ref = f"timm:{name}"
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is known, and the tag is not
        config = None
    if config is None:
        near = ", ".join(timm.list_pretrained(f"*{name.split('.')[0][:12]}*")[:3])
        raise ConfigError(f"timm has no model {name!r}" + (f"; it has for example {near}" if near else ""))
    if not config.hf_hub_id:
        raise ConfigError(f"timm knows {name!r}, but has no weights for it on the Hugging Face Hub; use another tag")
    filenames = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    weights = hub_file(ref, config.hf_hub_id, filenames)
    # The file is given by name, so that timm opens no connection of its own.
    overlay = {"file": str(weights), "custom_load": False}
    return TimmEncoder(
        ref, timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0), device
    )
