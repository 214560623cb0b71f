"""The 1,000 classes of ImageNet as a classifier like any other, without training; see `opsin.encoders.imagenet`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from opsin.checkpoint import IMAGENET
from opsin.classification.inference import Classifier
from opsin.config import nearest_name
from opsin.data.pixels import each_image
from opsin.domain import Watch
from opsin.encoders.imagenet import CROP, RESIZED, ImagenetEncoder, load_network
from opsin.encoders.imagenet_classes import class_names, classes_of, label_names
from opsin.errors import ConfigError
from opsin.images.opening import ImageLike
from opsin.images.preprocessing import Preprocessing
from opsin.pretrained import Example
from opsin.runtime import resolve_device


class ImagenetClassifier(ImagenetEncoder, Classifier):
    """The encoder `imagenet` with the classes that it was trained on. It cannot be saved: it is no directory."""

    kind = IMAGENET

    def __init__(self, device: torch.device) -> None:
        """Raises as `opsin.encoders.imagenet.load_network` does."""
        ImagenetEncoder.__init__(self, load_network(), device)
        self.model = self.network  # type: ignore[assignment]
        self.watch = Watch()
        self.groups: dict[str, tuple[int, ...]] | None = None
        """The classes of ImageNet that each label stands for, where other labels take the place of the 1,000."""

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> ImagenetClassifier:
        """The classifier, whatever `ref` is; raises as `opsin.encoders.imagenet.load_network` does."""
        classifier = cls(resolve_device(device))
        classifier.precision = precision
        return classifier

    @property
    def class_names(self) -> tuple[str, ...]:
        return class_names() if self.groups is None else tuple(self.groups)

    def use_labels(self, labels: Sequence[str], other: str | None = None) -> None:
        """Classify by labels that are names of classes or of groups of them, such as "dog" or "musical instrument".

        The probability of a label is the sum of those of its classes, shared out among the labels. `other` names a
        further label for all classes that no label has. Raises ConfigError for a label that names no class.
        """
        groups = {label: classes_of(label) for label in labels}
        if unknown := [label for label, classes in groups.items() if not classes]:
            near = nearest_name(unknown[0].lower(), label_names())
            hint = f"did you mean {near!r}? " if near else ""
            raise ConfigError(
                f"imagenet has no class and no group {unknown[0]!r}; {hint}For words of your own take a model of "
                "images and texts, such as --model open_clip:ViT-B-32/openai"
            )
        if other is not None:
            groups[other] = tuple(sorted(set(range(len(class_names()))).difference(*groups.values())))
        self.groups = groups

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
            scores = self.class_scores(chain([first], islice(remaining, batch_size - 1)))
            if self.groups is not None:  # the softmax of these is the sum over the classes, shared out
                scores = torch.stack([scores[:, list(own)].logsumexp(dim=1) for own in self.groups.values()], dim=1)
            yield scores

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
