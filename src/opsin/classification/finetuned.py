"""A classifier made of a pretrained encoder and a head that was trained on people's own images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from opsin.classification.config import FinetuneConfig
from opsin.classification.descriptors import describe_images, source_descriptors
from opsin.classification.inference import Classifier
from opsin.data.pixels import each_image, fit_image
from opsin.domain import SIDE
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.loading import load_unchanged
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike, open_image
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText, inline_code
from opsin.pretrained import Example, ModelContent
from opsin.sources.image_source import ImageSource


@dataclass(frozen=True, kw_only=True)
class FinetunedContent(ModelContent[FinetuneConfig]):
    """What describes a fine-tuned classifier."""

    config_class = FinetuneConfig
    backbone: str
    """The reference of the encoder; see `opsin.encoders.load`."""
    backbone_fingerprint: str
    """See `opsin.encoders.fingerprint.fingerprint`."""
    width: int
    """Of the descriptors that the head takes."""
    class_names: tuple[str, ...]


class FinetunedClassifier(Classifier):
    """An encoder by its reference, with a head of its own for other classes.

    As an encoder of images it gives the vectors of that encoder.
    """

    kind = "classifier"
    content_class = FinetunedContent  # type: ignore[assignment]
    views = "a centre crop and the whole image"
    model: nn.Linear  # type: ignore[assignment]
    content: FinetunedContent  # type: ignore[assignment]
    _loaded: NetworkEncoder | None = None

    @property
    def encoder(self) -> NetworkEncoder:
        """The encoder, loaded when it is first needed.

        Raises what `opsin.encoders.load` raises, and CheckpointError when it has other weights than it had.
        """
        if self._loaded is None:
            self._loaded = load_unchanged(
                self.content.backbone, self.content.backbone_fingerprint, str(self.device), self.precision
            )
        return self._loaded

    @encoder.setter
    def encoder(self, encoder: NetworkEncoder) -> None:
        self._loaded = encoder

    @property
    def preprocessing(self) -> Preprocessing:
        """The size at which images are read."""
        return Preprocessing(image_size=self.encoder.input_size)

    @classmethod
    def build(cls, content: FinetunedContent) -> nn.Linear:  # type: ignore[override]
        return nn.Linear(content.width, len(content.class_names))

    def weights(self) -> dict[str, Tensor]:
        return self.encoder.weights()

    def example_inputs(self) -> Example:
        words = f"a descriptor of {self.content.backbone}, which is not counted"
        return Example(self.model, (torch.zeros(1, self.content.width),), words, {"input": [1, self.content.width]})

    def card_text(self) -> CardText:
        text = super().card_text()
        backbone = inline_code(self.content.backbone)
        return replace(
            text,
            title="Fine-tuned classifier",
            description=text.description
            + f"\nThe head of the encoder {backbone}, which is not in this directory, was trained on these images.\n",
        )

    def predict_source(self, source: ImageSource) -> tuple[ImageSource, Tensor]:
        usable, descriptors = source_descriptors(source, self.encoder)
        return usable, self.head_scores(descriptors)

    def predict_pixels(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Scores (N, K) float32 on the CPU for uint8 pixels (N, 3, S, S)."""
        return torch.cat(list(self._scores(list(pixels.permute(0, 2, 3, 1).numpy()), batch_size)))

    def attention_maps(self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 32) -> np.ndarray:
        """Raises ConfigError: the encoder may have no attention."""
        raise ConfigError(
            f"{self.name} is a head on the encoder {self.content.backbone}; attention is drawn for the Vision "
            "Transformers of `opsin train vit`"
        )

    def _scores(self, images: ImageLike | Iterable[ImageLike], batch_size: int) -> Iterator[Tensor]:
        size = self.encoder.input_size
        remaining = (open_image(image, size=size) for image in each_image(images))
        while (first := next(remaining, None)) is not None:
            batch = list(chain([first], islice(remaining, batch_size - 1)))
            self.watch.see(_thumbnails(batch))
            yield self.head_scores(describe_images(self.encoder, batch))

    @torch.inference_mode()
    def head_scores(self, descriptors: Tensor) -> Tensor:
        """Scores (N, K) float32 on the CPU for descriptors float32 (N, F)."""
        scores: Tensor = self.model(descriptors.to(self.device)).float().cpu()
        return scores

    def _prepare(self, image: Image.Image) -> Tensor:
        return self.encoder._prepare(image)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.encoder._pooled(images)

    def see(self, images: Tensor) -> None:
        """Nothing: network input of the encoder is not what the training images were compared as."""


def _thumbnails(images: Sequence[Image.Image]) -> Tensor:
    """uint8 (N, 3, S, S), of the size at which domains are compared."""
    return torch.from_numpy(np.stack([fit_image(image, SIDE) for image in images]))
