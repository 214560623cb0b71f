"""Using a trained classifier: labels for images, attention maps, and its directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from opsin.checkpoint import names_imagenet
from opsin.classification.config import ViTConfig
from opsin.classification.model_card import model_card
from opsin.data.pixels import pixel_batches
from opsin.images.opening import ImageLike
from opsin.images.preprocessing import Preprocessing
from opsin.nn.vision_transformer import VisionTransformer
from opsin.pretrained import PretrainedModel
from opsin.runtime import autocast, refuse_damaged, resolve_device

KIND = "vit-classifier"


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, best first; probabilities are of all classes, so may sum to below 1."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What config.json of a classifier holds besides its kind and format version."""

    model: ViTConfig
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: dict[str, float]
    training: dict[str, Any]


class Classifier(PretrainedModel):
    """A Vision Transformer with its class names, preprocessing and metrics: all that its directory holds."""

    kind = KIND
    content = _Content
    model: VisionTransformer

    def __init__(
        self,
        model: VisionTransformer,
        config: ViTConfig,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        *,
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
        precision: str = "auto",
    ) -> None:
        """See `PretrainedModel`; scores are computed in `precision`."""
        super().__init__(model, metrics, training, precision)
        self.config = config
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> Classifier:
        """See `PretrainedModel.from_pretrained`; `imagenet` is a classifier of photographs of 1,000 things."""
        if not names_imagenet(ref):
            return super().from_pretrained(ref, device, precision)
        from opsin.classification.imagenet import ImagenetClassifier
        from opsin.encoders.imagenet import load_imagenet

        encoder = load_imagenet(resolve_device(device))
        encoder.precision = precision
        return ImagenetClassifier(encoder)

    @classmethod
    def _build(cls, content: _Content) -> VisionTransformer:
        return build_model(content.model, content.preprocessing.image_size, len(content.class_names))

    @classmethod
    def _assemble(cls, ref: str, content: _Content, network: VisionTransformer, precision: str) -> Self:
        return cls(
            network,
            content.model,
            content.class_names,
            content.preprocessing,
            metrics=content.metrics,
            training=content.training,
            precision=precision,
        )

    def _content(self) -> _Content:
        return _Content(
            model=self.config,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            metrics=self.metrics,
            training=self.training,
        )

    def _card(self) -> str:
        return model_card(self.class_names, self.metrics, self.training)

    def classify(
        self, images: ImageLike | Iterable[ImageLike], *, top_k: int = 5, batch_size: int = 64
    ) -> list[Classification]:
        """The `top_k` classes of each image (paths, PIL images or arrays), also of a single one.

        Raises DataError for a broken image, CheckpointError for a model whose scores are NaN.
        """
        return list(self.classify_each(images, top_k=top_k, batch_size=batch_size))

    def classify_each(
        self, images: ImageLike | Iterable[ImageLike], *, top_k: int = 5, batch_size: int = 64
    ) -> Iterator[Classification]:
        """What `classify` gives, image by image; at most `batch_size` images are read ahead."""
        for scores in self._scores(images, batch_size):
            refuse_damaged(scores, "the classifier")
            values, indices = scores.softmax(dim=1).topk(min(top_k, len(self.class_names)), dim=1)
            for row_values, row_indices in zip(values.tolist(), indices.tolist(), strict=True):
                labels = tuple(self.class_names[index] for index in row_indices)
                yield Classification(labels, tuple(row_values))

    def _scores(self, images: ImageLike | Iterable[ImageLike], batch_size: int) -> Iterator[Tensor]:
        """Scores (N, K) of at most `batch_size` images at a time."""
        for pixels in pixel_batches(images, self.preprocessing.image_size, batch_size):
            yield self.predict_pixels(pixels)

    @torch.inference_mode()
    def predict_pixels(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Scores (N, K) float32 on the CPU for uint8 pixels (N, 3, image_size, image_size)."""
        self.watch.see(pixels)
        scores = []
        for chunk in pixels.split(batch_size):
            images = self.preprocessing.prepare(chunk.to(self.device))
            with autocast(self.device, self.precision):
                scores.append(self.model(images).float().cpu())
        return torch.cat(scores)

    def attention_maps(self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = 32) -> np.ndarray:
        """Attention rollout of each image, float32 (N, grid, grid), each map summing to one.

        Rollout ("Quantifying Attention Flow in Transformers", Abnar and Zuidema 2020) multiplies the layers' weights,
        averaged over heads and with half of the residual path, into the share that each patch has in what the model
        pools: the class token, or the mean over patches.
        """
        maps = []
        for pixels in pixel_batches(images, self.preprocessing.image_size, batch_size):
            weights = self.model.attention_weights(self.preprocessing.prepare(pixels.to(self.device)))
            maps.append(attention_rollout(weights, self.config.pool, self.model.grid_size).cpu().numpy())
        grid = self.model.grid_size
        return np.concatenate(maps) if maps else np.zeros((0, grid, grid), dtype=np.float32)


def build_model(config: ViTConfig, image_size: int, num_classes: int) -> VisionTransformer:
    """A freshly initialised network of this shape."""
    return VisionTransformer(img_size=image_size, num_classes=num_classes, **dataclasses.asdict(config))


def attention_rollout(weights: Tensor, pool: str, grid_size: int) -> Tensor:
    """Weights (N, L, H, T, T) to maps (N, grid, grid): the share of each patch in the pooled representation."""
    N, num_layers, _, T, _ = weights.shape
    identity = torch.eye(T, device=weights.device)
    flow = identity.expand(N, T, T)
    for layer in range(num_layers):
        flow = (0.5 * weights[:, layer].float().mean(dim=1) + 0.5 * identity) @ flow
    shares = flow[:, 0, 1:] if pool == "class_token" else flow.mean(dim=1)
    return (shares / shares.sum(dim=1, keepdim=True)).view(N, grid_size, grid_size)
