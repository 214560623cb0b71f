"""Encoders made with opsin: the network of a trained classifier, without its head, or of SimCLR, or a dual encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsin import checkpoint
from opsin.config import from_dict
from opsin.domain import Watch
from opsin.encoders.base import DenseNetworkEncoder, NetworkEncoder
from opsin.encoders.fitted import FittedImages
from opsin.encoders.local_clip import KIND as CLIP_KIND
from opsin.encoders.local_clip import LocalClipEncoder
from opsin.errors import CheckpointError
from opsin.images.preprocessing import Preprocessing
from opsin.nn.image_encoder import build_image_encoder
from opsin.nn.vision_transformer import VisionTransformer
from opsin.pretrained import read_watch
from opsin.state_dicts import build_to_fit

KIND = "vit-classifier"
SIMCLR_KIND = "simclr"
ENCODER_PREFIX = "encoder."


class LocalEncoder(FittedImages, DenseNetworkEncoder):
    """A Vision Transformer from a classifier's directory; the class token, if it has one, is no patch."""

    kind = KIND

    def __init__(
        self,
        name: str,
        network: VisionTransformer,
        preprocessing: Preprocessing,
        training: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        """`training` is the config of the run that made the network, as JSON types."""
        super().__init__(name, network, device)
        self._vit = network
        self.preprocessing = preprocessing
        self.training = dict(training)
        self.watch = Watch()

    def _pooled(self, images: Tensor) -> Tensor:
        return self._vit(images)

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens = self._vit.forward_features(images)
        return tokens[:, int(self._vit.class_token is not None) :], (self._vit.grid_size, self._vit.grid_size)


class LocalVectorEncoder(FittedImages):
    """The encoder of a model of SimCLR, which gives one vector for a whole image."""

    kind = SIMCLR_KIND

    def __init__(
        self,
        name: str,
        network: nn.Module,
        preprocessing: Preprocessing,
        training: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        """`training` is the record of the run that made the network, as JSON types."""
        super().__init__(name, network, device)
        self.preprocessing = preprocessing
        self.training = dict(training)
        self.watch = Watch()

    def _pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features


def load_local(ref: str, device: torch.device) -> NetworkEncoder:
    """The encoder in a model of opsin: a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

    A dual encoder has both of its towers, a classifier its network, a model of SimCLR what it had before the
    projection. Raises CheckpointError when there is no model, or when it is of another kind.
    """
    directory = checkpoint.resolve_model(ref)
    kind = checkpoint.read_model_config(directory)["kind"]
    if kind == CLIP_KIND:
        return LocalClipEncoder.from_pretrained(ref, str(device))
    if kind not in LOADERS:
        raise CheckpointError(
            f"{ref} holds a model of kind {kind!r}, which is no encoder; give a classifier (`opsin train vit`), a "
            "model that learned without labels (`opsin train simclr`), a model of images and texts (`opsin train "
            "clip`, or emoji-clip), imagenet, timm:NAME, or open_clip:ARCHITECTURE/TAG"
        )
    encoder = LOADERS[kind](ref, device)
    encoder.watch = read_watch(directory)
    return encoder


def _load_classifier(ref: str, device: torch.device) -> LocalEncoder:
    content, tensors = checkpoint.load_pretrained(ref, kind=KIND)
    settings = from_dict(_Content, content, where=f"{ref}, config.json")
    without_head = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    size = settings.preprocessing.image_size
    network = build_to_fit(lambda: VisionTransformer(img_size=size, num_classes=0, **settings.model), without_head, ref)
    return LocalEncoder(ref, network, settings.preprocessing, settings.training, device)


def _load_simclr(ref: str, device: torch.device) -> LocalVectorEncoder:
    content, tensors = checkpoint.load_pretrained(ref, kind=SIMCLR_KIND)
    settings = from_dict(_SimclrContent, content, where=f"{ref}, config.json")
    encoder = {
        name.removeprefix(ENCODER_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(ENCODER_PREFIX)
    }
    size = settings.preprocessing.image_size
    network = build_to_fit(lambda: build_image_encoder(size, **settings.encoder), encoder, ref)
    return LocalVectorEncoder(ref, network, settings.preprocessing, settings.training, device)


LOADERS: dict[str, Callable[[str, torch.device], LocalEncoder | LocalVectorEncoder]] = {
    KIND: _load_classifier,
    SIMCLR_KIND: _load_simclr,
}


@dataclass(frozen=True, kw_only=True)
class _SimclrContent:
    """What config.json of a model of SimCLR holds besides its kind and format version."""

    encoder: dict[str, Any]
    projection: tuple[int, int] | None
    preprocessing: Preprocessing
    metrics: dict[str, float]
    training: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What config.json of a classifier holds besides its kind and format version."""

    model: dict[str, Any]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: dict[str, float]
    training: dict[str, Any]
