"""Using a trained encoder: features of images, and its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from opsin import checkpoint
from opsin.config import to_dict
from opsin.domain import Watch
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.fitted import FittedImages
from opsin.images.preprocessing import Preprocessing
from opsin.pretrained import PretrainedModel
from opsin.runtime import seeded
from opsin.simclr.config import EncoderConfig, SimclrConfig
from opsin.simclr.model import ProjectionHead, SimclrModel, build_encoder
from opsin.simclr.model_card import model_card
from opsin.training.record import training_record

KIND = "simclr"


@dataclass(frozen=True, kw_only=True)
class SimclrContent:
    """What config.json of an encoder holds besides its kind and format version."""

    encoder: EncoderConfig
    projection: tuple[int, int] | None
    """Widths of the hidden layer and of the result; None where the encoder is kept alone."""
    preprocessing: Preprocessing
    metrics: dict[str, float]
    training: dict[str, Any]


class SimclrEncoder(FittedImages, PretrainedModel):
    """An encoder that learned without labels, with its preprocessing and metrics: all that its directory holds.

    `encode_image` gives features of whole images; see `opsin.encoders.base.ImageEncoder`. The projection that it was
    trained with is kept beside it and not applied.
    """

    kind = KIND
    content = SimclrContent
    model: SimclrModel

    def __init__(self, name: str, network: SimclrModel, content: SimclrContent, precision: str = "auto") -> None:
        """See `PretrainedModel`; `name` is the reference that `opsin.encoders.load` takes, `content` describes the
        network."""
        NetworkEncoder.__init__(self, name, network, next(network.parameters()).device)
        PretrainedModel.__init__(self, network, content.metrics, content.training, precision)
        self.description = content
        self.preprocessing = content.preprocessing

    @classmethod
    def _build(cls, content: SimclrContent) -> SimclrModel:
        encoder = build_encoder(content.encoder, content.preprocessing.image_size)
        return SimclrModel(encoder, _projection(encoder.feature_dim, content.projection))

    @classmethod
    def _assemble(cls, ref: str, content: SimclrContent, network: SimclrModel, precision: str) -> Self:
        return cls(ref, network, content, precision)

    def _content(self) -> SimclrContent:
        return replace(self.description, metrics=self.metrics, training=self.training)

    def _card(self) -> str:
        return model_card(self.description.encoder.name, self.metrics, self.training)

    def without_projection(self) -> SimclrEncoder:
        """The same encoder alone, which gives the same features and takes less room; it shares its weights."""
        network = SimclrModel(self.model.encoder, nn.Identity())
        alone = SimclrEncoder(self.name, network, replace(self._content(), projection=None), self.precision)
        alone.watch = Watch(self.watch.domain)
        return alone

    def untrained(self) -> SimclrEncoder:
        """The network that the encoder's run began with: random weights, and statistics of a BatchNorm that has seen
        nothing. (With statistics of real images kNN and linear probe of a ResNet come out lower, not higher.)"""
        training: Any = self.training.get("training", {})
        with seeded(int(training.get("seed", 0)), "weights"):
            network = build_encoder(self.description.encoder, self.preprocessing.image_size)
        model = SimclrModel(network, nn.Identity()).to(self.device)
        content = replace(self.description, projection=None)
        return SimclrEncoder(f"{self.name}, untrained", model, content, self.precision)

    def _pooled(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encoder(images)
        return features


def write_model(
    directory: Path,
    model: SimclrModel,
    config: SimclrConfig,
    preprocessing: Preprocessing,
    metrics: Mapping[str, float],
    source_digest: str | None,
) -> None:
    """A model in training as a directory, which `SimclrEncoder.from_pretrained` takes; an older one there is replaced
    in one step."""
    training = training_record(config, source_digest)
    content = SimclrContent(
        encoder=config.encoder,
        projection=(config.projection_hidden, config.projection_dim),
        preprocessing=preprocessing,
        metrics=dict(metrics),
        training=training,
    )
    card = model_card(config.encoder.name, metrics, training)
    checkpoint.save_pretrained(directory, kind=KIND, config=to_dict(content), tensors=model.state_dict(), card=card)


def _projection(feature_dim: int, widths: tuple[int, int] | None) -> nn.Module:
    return nn.Identity() if widths is None else ProjectionHead(feature_dim, *widths)
