"""The 1,000 classes of ImageNet as a classifier like any other, without training; see `opsin.encoders.imagenet`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from opsin.checkpoint import IMAGENET
from opsin.classification.inference import Classifier
from opsin.data.pixels import each_image
from opsin.domain import Watch
from opsin.encoders.imagenet import CROP, RESIZED, ImagenetEncoder, load_network
from opsin.encoders.imagenet_classes import class_names
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike
from opsin.images.preprocessing import Preprocessing
from opsin.pretrained import Example


class ImagenetClassifier(ImagenetEncoder, Classifier):
    """The encoder `imagenet` with the classes that it was trained on. It cannot be saved: it is no directory."""

    def __init__(self, device: torch.device) -> None:
        """Raises as `opsin.encoders.imagenet.load_network` does."""
        ImagenetEncoder.__init__(self, load_network(), device)
        self.model = self.network  # type: ignore[assignment]
        self.watch = Watch()

    @property
    def class_names(self) -> tuple[str, ...]:
        return class_names()

    @property
    def preprocessing(self) -> Preprocessing:
        """Of `predict_pixels`."""
        return Preprocessing(image_size=RESIZED)

    @property
    def metrics(self) -> dict[str, float]:
        return {}

    @property
    def run(self) -> None:
        return None

    def weights(self) -> dict[str, Tensor]:
        return ImagenetEncoder.weights(self)

    def example_inputs(self) -> Example:
        return Example.of_image(self.model, CROP)

    def predict_pixels(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Scores (N, 1000) float32 on the CPU for uint8 pixels (N, 3, 256, 256), of which the centre is looked at."""
        return self.class_scores(pixels.permute(0, 2, 3, 1).numpy())

    def _scores(self, images: ImageLike | Iterable[ImageLike], batch_size: int) -> Iterator[Tensor]:
        remaining = iter(each_image(images))
        while (first := next(remaining, None)) is not None:
            yield self.class_scores(chain([first], islice(remaining, batch_size - 1)))

    def attention_maps(self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 32) -> np.ndarray:
        """Raises ConfigError: a convolutional network has no attention."""
        raise ConfigError(
            f"{IMAGENET} is a convolutional network and has no attention to show; that takes a Vision Transformer, "
            "such as `opsin train vit` makes"
        )

    def save_pretrained(self, directory: str | Path) -> NoReturn:
        """Raises ConfigError: the weights are not opsin's."""
        raise ConfigError(f"{IMAGENET} comes from an installed package and is not saved as a model directory")

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> NoReturn:
        """Raises ConfigError: the weights are not opsin's."""
        raise ConfigError(f"{IMAGENET} comes from an installed package and is not uploaded as a model of opsin")
