"""Encoders of images and texts made with opsin: the two towers of a model of `opsin train clip`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from opsin import checkpoint
from opsin.config import from_dict
from opsin.data.pixels import fit_image
from opsin.data.preprocessing import Preprocessing
from opsin.data.tokenizer import BpeTokenizer
from opsin.encoders.base import DenseNetworkEncoder, TextNetwork
from opsin.nn.dual_encoder import DualEncoder, build_dual_encoder

KIND = "clip"


@dataclass(frozen=True, kw_only=True)
class ClipContent:
    """What config.json of a dual encoder holds besides its kind and format version.

    `image` and `text` are options of `opsin.nn.vision_transformer.VisionTransformer` and
    `opsin.nn.dual_encoder.TextTransformer`, `tokenizer` is what `BpeTokenizer.to_json` gives.
    """

    embed_dim: int
    image: dict[str, Any]
    text: dict[str, Any]
    tokenizer: dict[str, Any]
    preprocessing: Preprocessing
    metrics: dict[str, float]
    training: dict[str, Any]


class LocalClipEncoder(TextNetwork, DenseNetworkEncoder):
    """Both towers; patches are those of the image tower, before the map into the common space."""

    def __init__(
        self,
        name: str,
        network: DualEncoder,
        tokenizer: BpeTokenizer,
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        metrics: dict[str, float] | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        """`metrics` are the scores of the run that made the model, `training` its settings."""
        super().__init__(name, network, device)
        self.model = network
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.logit_scale = float(network.scale())
        self.metrics = dict(metrics or {})
        self.training = dict(training or {})

    def _prepare(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(fit_image(image, self.preprocessing.image_size))
        return self.preprocessing.prepare(pixels[None])[0]

    def _pooled(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)

    def _pooled_texts(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer.encode(texts).to(self.device))

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tower = self.model.image_tower
        tokens = tower.forward_features(images)
        return tokens[:, int(tower.class_token is not None) :], (tower.grid_size, tower.grid_size)


def load_local_clip(ref: str | Path, device: torch.device) -> LocalClipEncoder:
    """The dual encoder behind a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

    Raises CheckpointError when there is none, or when the directory holds another kind of model.
    """
    content, tensors = checkpoint.load_pretrained(ref, kind=KIND)
    settings = from_dict(ClipContent, content, where=f"{ref}, config.json")
    network = build_dual_encoder(settings.preprocessing.image_size, settings.embed_dim, settings.image, settings.text)
    checkpoint.load_state_dict(network, tensors, str(ref))
    return LocalClipEncoder(
        str(ref),
        network,
        BpeTokenizer.from_json(settings.tokenizer),
        settings.preprocessing,
        device,
        metrics=settings.metrics,
        training=settings.training,
    )
