"""Encoders of images and texts made with opsin: the two towers of a model of `opsin train clip`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from opsin.data.tokenizer import BpeTokenizer
from opsin.data.unread import Unread
from opsin.encoders.base import DenseNetworkEncoder, TextNetwork
from opsin.encoders.clip_card import model_card
from opsin.encoders.fitted import FittedImages
from opsin.images.preprocessing import Preprocessing
from opsin.nn.dual_encoder import DualEncoder, build_dual_encoder
from opsin.pretrained import PretrainedModel

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


class LocalClipEncoder(TextNetwork, FittedImages, DenseNetworkEncoder, PretrainedModel):
    """Both towers; patches are those of the image tower, before the map into the common space."""

    kind = KIND
    content = ClipContent
    model: DualEncoder

    def __init__(self, name: str, network: DualEncoder, content: ClipContent, precision: str = "auto") -> None:
        """See `PretrainedModel`; `content` is what describes the network."""
        DenseNetworkEncoder.__init__(self, name, network, next(network.parameters()).device)
        PretrainedModel.__init__(self, network, content.metrics, content.training, precision)
        self.description = content
        self.tokenizer = BpeTokenizer.from_json(content.tokenizer)
        self.preprocessing = content.preprocessing
        self.logit_scale = float(network.scale())

    @classmethod
    def _build(cls, content: ClipContent) -> DualEncoder:
        return build_dual_encoder(content.preprocessing.image_size, content.embed_dim, content.image, content.text)

    @classmethod
    def _assemble(cls, ref: str, content: ClipContent, network: DualEncoder, precision: str) -> Self:
        return cls(ref, network, content, precision)

    def _content(self) -> ClipContent:
        return replace(self.description, metrics=self.metrics, training=self.training)

    def _card(self) -> str:
        return model_card(self.metrics, self.training)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.tokenizer.encode(texts)

    def unread(self, texts: Sequence[str]) -> Unread:
        return self.tokenizer.unread(texts)

    def _pooled_tokens(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tower = self.model.image_tower
        tokens = tower.forward_features(images)
        return tokens[:, int(tower.class_token is not None) :], (tower.grid_size, tower.grid_size)
