"""A classifier made of a pretrained encoder and a head that was trained on people's own images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from opsin.classification.config import FinetuneConfig
from opsin.classification.descriptors import describe_images, source_descriptors
from opsin.classification.inference import Classifier
from opsin.data.pixels import each_image, fit_image
from opsin.domain import SIDE
from opsin.encoders.base import DenseNetworkEncoder, NetworkEncoder
from opsin.encoders.loading import encoder_of_network, load_unchanged, network_outline
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike, open_image
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText, inline_code
from opsin.pretrained import Example, ModelContent
from opsin.progress import Progress
from opsin.sources.image_source import ImageSource

TUNED_BATCH = 64
"""Images that go through a tuned network together."""


@dataclass(frozen=True, kw_only=True)
class FinetunedContent(ModelContent[FinetuneConfig]):
    """What describes a fine-tuned classifier."""

    config_class = FinetuneConfig
    backbone: str
    """The reference of the encoder; see `opsin.encoders.load`."""
    backbone_fingerprint: str
    """See `opsin.encoders.fingerprint.fingerprint`."""
    width: int
    """Of what the head takes: the descriptors of images, or the encoder's vectors where it has been tuned."""
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    """Of an encoder that has been tuned: that of the run. Else images are prepared as the encoder does it."""
    self_contained: bool = False
    """Whether the encoder's weights are in the directory though they have not been tuned."""


class FinetunedNetwork(nn.Module):
    """A head, and the network of the encoder where its weights belong to the model."""

    def __init__(self, width: int, num_classes: int, backbone: nn.Module | None = None) -> None:
        """`backbone` is a network of timm."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, K) of network input (N, 3, S, S)."""
        scores: Tensor = self.head(self.pooled(images))
        return scores

    def pooled(self, images: Tensor) -> Tensor:
        """Vectors (N, D) of network input."""
        backbone: Any = self.backbone
        vectors: Tensor = backbone.forward_head(backbone.forward_features(images), pre_logits=True)
        return vectors

    def train(self, mode: bool = True) -> FinetunedNetwork:
        """Batch norms keep the statistics of the pretraining: those of a few images would be worse."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class FinetunedClassifier(Classifier):
    """An encoder with a head of its own for other classes; the encoder is named by its reference, or tuned along and
    kept in the model.

    As an encoder of images it gives the vectors of that encoder.
    """

    kind = "classifier"
    content_class = FinetunedContent  # type: ignore[assignment]
    model: FinetunedNetwork  # type: ignore[assignment]
    content: FinetunedContent  # type: ignore[assignment]
    _loaded: NetworkEncoder | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether the encoder's weights have been trained along."""
        return self.content.preprocessing is not None

    @property
    def views(self) -> str:  # type: ignore[override]
        """What is looked at of each image."""
        return super().views if self.is_tuned else "a centre crop and the whole image"

    @property
    def encoder(self) -> NetworkEncoder:
        """The encoder, loaded when it is first needed.

        Raises what `opsin.encoders.load` raises, and CheckpointError when it has other weights than it had.
        """
        if self._loaded is None:
            ref, backbone = self.content.backbone, self.model.backbone
            if backbone is None:
                self._loaded = load_unchanged(ref, self.content.backbone_fingerprint, str(self.device), self.precision)
            else:
                self._loaded = encoder_of_network(ref, backbone, self.device)
                self._loaded.precision = self.precision
        return self._loaded

    @encoder.setter
    def encoder(self, encoder: NetworkEncoder) -> None:
        self._loaded = encoder

    @property
    def preprocessing(self) -> Preprocessing:
        """That of a tuned encoder; else it says only at which size images are read."""
        return self.content.preprocessing or Preprocessing(image_size=self.encoder.input_size)

    @classmethod
    def build(cls, content: FinetunedContent) -> FinetunedNetwork:  # type: ignore[override]
        is_own = content.self_contained or content.preprocessing is not None
        backbone = network_outline(content.backbone) if is_own else None
        return FinetunedNetwork(content.width, len(content.class_names), backbone)

    def weights(self) -> dict[str, Tensor]:
        return self.encoder.weights()

    def example_inputs(self) -> Example:
        if self.is_tuned:
            return super().example_inputs()
        words = f"a descriptor of {self.content.backbone}, which is not counted"
        return Example(
            self.model.head, (torch.zeros(1, self.content.width),), words, {"input": [1, self.content.width]}
        )

    def card_text(self) -> CardText:
        text = super().card_text()
        backbone = inline_code(self.content.backbone)
        return replace(
            text,
            title="Fine-tuned classifier",
            description=text.description + f"\n{self._parts(backbone)}\n",
        )

    def _parts(self, backbone: str) -> str:
        if self.is_tuned:
            return f"The encoder {backbone} was trained along, and is in this directory."
        where = "is" if self.content.self_contained else "is not"
        return f"The head of the encoder {backbone}, which {where} in this directory, was trained on these images."

    def predict_source(self, source: ImageSource, progress: Progress | None = None) -> tuple[ImageSource, Tensor]:
        if self.is_tuned:
            return super().predict_source(source, progress)
        usable, descriptors = source_descriptors(source, self.encoder, progress=progress)
        return usable, self.head_scores(descriptors)

    def predict_pixels(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Scores (N, K) float32 on the CPU for uint8 pixels (N, 3, S, S)."""
        if self.is_tuned:
            return super().predict_pixels(pixels, TUNED_BATCH)
        return torch.cat(list(self._scores(list(pixels.permute(0, 2, 3, 1).numpy()), batch_size)))

    def attention_maps(self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 32) -> np.ndarray:
        """Raises ConfigError: the encoder may have no attention."""
        raise ConfigError(
            f"{self.name} is a head on the encoder {self.content.backbone}; attention is drawn for the Vision "
            "Transformers of `opsin train vit`"
        )

    def _scores(self, images: ImageLike | Iterable[ImageLike], batch_size: int) -> Iterator[Tensor]:
        if self.is_tuned:
            yield from super()._scores(images, batch_size)
            return
        size = self.encoder.input_size
        remaining = (open_image(image, size=size) for image in each_image(images))
        while (first := next(remaining, None)) is not None:
            batch = list(chain([first], islice(remaining, batch_size - 1)))
            self.watch.see(_thumbnails(batch))
            yield self.head_scores(describe_images(self.encoder, batch))

    @torch.inference_mode()
    def head_scores(self, descriptors: Tensor) -> Tensor:
        """Scores (N, K) float32 on the CPU for descriptors float32 (N, F)."""
        scores: Tensor = self.model.head(descriptors.to(self.device)).float().cpu()
        return scores

    @property
    def patch_size(self) -> int:  # type: ignore[override]
        return cast(DenseNetworkEncoder, self.encoder).patch_size

    def _prepare(self, image: Image.Image) -> Tensor:
        return super()._prepare(image) if self.is_tuned else self.encoder._prepare(image)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.encoder._pooled(images)

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return cast(DenseNetworkEncoder, self.encoder)._dense(images)

    def see(self, images: Tensor) -> None:
        if self.is_tuned:  # network input of another encoder is not what the training images were compared as
            super().see(images)


def _thumbnails(images: Sequence[Image.Image]) -> Tensor:
    """uint8 (N, 3, S, S), of the size at which domains are compared."""
    return torch.from_numpy(np.stack([fit_image(image, SIDE) for image in images]))
