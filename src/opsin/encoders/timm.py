"""Encoders from timm: DINO, DINOv2, supervised and other networks, as `timm:NAME`, `timm:NAME.TAG` or, with weights
from a file, `timm:NAME@FILE`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from opsin.encoders.base import DenseNetworkEncoder
from opsin.errors import CheckpointError, ConfigError
from opsin.hub import hub_file
from opsin.state_dicts import state_dict_of

logger = logging.getLogger(__name__)


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


def load_timm(name: str, device: torch.device, file: Path | None = None) -> TimmEncoder:
    """The network that timm calls `name`, with its published weights, or with those of a file.

    Raises ConfigError for a name that timm does not know or has no weights for, OfflineError when they cannot be had,
    CheckpointError for a file that has not all of them.
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
    if file is not None:
        network = timm.create_model(name, pretrained=False, num_classes=0)
        _load_file(network, file, name)
        return TimmEncoder(f"{ref}@{file}", network, device)
    if not config.hf_hub_id:
        raise ConfigError(f"timm knows {name!r}, but has no weights for it on the Hugging Face Hub; use another tag")
    filenames = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    weights = hub_file(ref, config.hf_hub_id, filenames)
    # The file is given by name, so that timm opens no connection of its own.
    overlay = {"file": str(weights), "custom_load": False}
    return TimmEncoder(
        ref, timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0), device
    )


def _load_file(network: nn.Module, path: Path, name: str) -> None:
    """Load a state dict as timm, torch hub or a training script wrote it. Raises CheckpointError unless it has every
    weight of the network; what it has besides, such as a classifier, is left alone, and logged."""
    tensors = state_dict_of(path)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    wanted = network.state_dict().keys()
    try:
        tensors = convert(tensors, network) if convert else tensors
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:  # other shapes, or what timm cannot convert
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the weights in {path} do not fit timm's {name}: {reason}") from error
    if missing:
        found = f"; found instead: {', '.join(unexpected[:3])}" if unexpected else ""
        raise CheckpointError(
            f"{path} has {len(wanted) - len(missing)} of the {len(wanted)} tensors of timm's {name}; missing, for "
            f"example: {', '.join(missing[:3])}{found}"
        )
    if unexpected:
        examples = ", ".join(unexpected[:3])
        logger.info("%s: %d tensors are not used by timm's %s, such as %s", path, len(unexpected), name, examples)
