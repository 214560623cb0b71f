"""Image encoders from open_clip: CLIP, SigLIP, MobileCLIP and others, as `open_clip:ARCHITECTURE/TAG`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from opsin.data.images import ImageLike, open_image
from opsin.encoders.base import DenseNetworkEncoder, NetworkEncoder
from opsin.encoders.timm import patch_tokens
from opsin.encoders.weights import hub_file
from opsin.errors import ConfigError

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
DEFAULT_WEIGHTS = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


class OpenClipEncoder(NetworkEncoder):
    """The image half of a CLIP model, with the preprocessing that its weights were trained with."""

    def __init__(self, name: str, network: nn.Module, device: torch.device) -> None:
        """`network` is what `open_clip.create_model` gives."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        visual: Any = network.visual
        super().__init__(name, visual, device)
        self._visual = visual
        self._transform = image_transform_v2(PreprocessCfg(**visual.preprocess_cfg), is_train=False)

    def _prepare(self, image: ImageLike) -> Tensor:
        return self._transform(open_image(image))

    def _pooled(self, images: Tensor) -> Tensor:
        return self._visual(images)


class DenseOpenClipEncoder(OpenClipEncoder, DenseNetworkEncoder):
    """One whose network is a Vision Transformer of open_clip's own, or a network of timm."""

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if hasattr(self._visual, "trunk"):
            return patch_tokens(self._visual.trunk, images)
        result = self._visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NCHW"
        )
        features = result["image_intermediates"][-1]
        return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])


def wrap(name: str, network: nn.Module, device: torch.device) -> OpenClipEncoder:
    """The encoder of a model that `open_clip.create_model` gave: a dense one where its network has patches."""
    visual = network.visual
    has_patches = hasattr(visual, "trunk") or hasattr(visual, "transformer")
    return (DenseOpenClipEncoder if has_patches else OpenClipEncoder)(name, network, device)


def load_open_clip(name: str, device: torch.device) -> OpenClipEncoder:
    """The model `ARCHITECTURE/TAG` with its published weights.

    Raises ConfigError for one that open_clip does not know, OfflineError when the weights cannot be had.
    """
    import open_clip

    ref = f"open_clip:{name}"
    architecture, _, tag = name.partition("/")
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        known = f"the tags of {architecture} are {tags}" if tags else "opsin expects open_clip:ARCHITECTURE/TAG"
        raise ConfigError(f"open_clip has no pretrained model {name!r}; {known}")
    if not config.get("hf_hub"):
        raise ConfigError(f"{ref} has no weights on the Hugging Face Hub; use another tag of {architecture}")
    repo_id, _, filename = config["hf_hub"].rpartition("/")
    weights = hub_file(ref, repo_id, [filename] if filename else DEFAULT_WEIGHTS)
    # The file is given by name, so that open_clip opens no connection of its own; what a tag implies is then said here.
    network = open_clip.create_model(
        architecture,
        pretrained=str(weights),
        force_quick_gelu=bool(config.get("quick_gelu")),
        force_preprocess_cfg={key: config[key] for key in PREPROCESSING if key in config},
    )
    return wrap(ref, network, device)
