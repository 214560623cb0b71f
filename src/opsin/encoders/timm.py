"""Encoders from timm: DINO, DINOv2, supervised and other networks, as `timm:NAME`, `timm:NAME.TAG` or, with weights
from a file, `timm:NAME@FILE`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from opsin.encoders.base import DenseNetworkEncoder
from opsin.errors import CheckpointError, ConfigError
from opsin.hub import hub_file
from opsin.images.preprocessing import Preprocessing
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
        interpolate_any_size(self.network)
        self.patch_size = patch_size_of(self.network)
        self._config = resolve_model_data_config(network)
        self._transform = create_transform(**self._config, is_training=False)

    @property
    def preprocessing(self) -> Preprocessing:
        size = max(self._config["input_size"][-2:])
        return Preprocessing(image_size=size, mean=tuple(self._config["mean"]), std=tuple(self._config["std"]))

    def _fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        refuse_fixed_size(self.network, self.name)
        return super()._fitted(size)

    def _prepare(self, image: Image.Image) -> Tensor:
        return self._transform(image)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.network(images)

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return patch_tokens(self.network, images)

    def _joined(self, strides: Sequence[int]) -> Callable[[Tensor], tuple[Tensor, tuple[int, int]]]:
        return joined_stages(self.network, strides, self.name)


def interpolate_any_size(network: nn.Module) -> None:
    """Let a Vision Transformer of timm take images of any number of patches, as its option `dynamic_img_size` does when
    it is built; it gives the same for images of its own size."""
    from timm.layers import Format, PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(network, VisionTransformer) and type(network.patch_embed) is PatchEmbed:
        network.dynamic_img_size = True  # type: ignore[misc]  # Final is meant for TorchScript
        embed = network.patch_embed
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def patch_size_of(network: Any) -> int:
    """Of a transformer of timm; 1 of a convolutional network."""
    sides = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return int(max(sides)) if isinstance(sides, tuple | list) else int(sides)


def refuse_fixed_size(network: Any, name: str) -> None:
    """Raise ConfigError for a transformer of timm whose positions are of one size of images only."""
    if getattr(getattr(network, "patch_embed", None), "strict_img_size", False):
        raise ConfigError(f"{name} takes images of its own size only; leave out the size")


def joined_stages(
    network: Any, strides: Sequence[int], name: str
) -> Callable[[Tensor], tuple[Tensor, tuple[int, int]]]:
    """A function from network input to the maps of the stages with these strides, joined on the grid of the finest; see
    `DenseEncoder.encode_dense`. Raises ConfigError for strides that the network does not have."""
    known = {info["reduction"]: place for place, info in enumerate(getattr(network, "feature_info", ()))}
    if len(known) < 2:
        raise ConfigError(f"{name} has one map of features; strides are for convolutional networks")
    if not strides or not set(strides) <= known.keys():
        raise ConfigError(f"strides are some of {', '.join(map(str, known))}, not {tuple(strides)}")
    stages = sorted({known[stride] for stride in strides})

    def joined(images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        maps = network.forward_intermediates(images, stages, stop_early=True, intermediates_only=True)
        grid = maps[0].shape[-2:]
        fitted = [
            F.normalize(F.interpolate(map.float(), grid, mode="bilinear", align_corners=False), dim=1) for map in maps
        ]
        return as_tokens(torch.cat(fitted, dim=1))

    return joined


def as_tokens(features: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """A map (N, D, H, W) as tokens (N, P, D), row by row, with their grid."""
    return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])


def patch_tokens(network: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens (N, P, D) and their grid (rows, columns) from a network of timm, whatever layout its features have."""
    features = network.forward_features(images)
    if features.ndim == 3:
        tokens = features[:, getattr(network, "num_prefix_tokens", 0) :]
        rows, columns = network.patch_embed.dynamic_feat_size(images.shape[-2:])
        return tokens, (int(rows), int(columns))
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        features = features.permute(0, 3, 1, 2)
    return as_tokens(features)


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
