"""Using a trained classifier: labels for images, attention maps, and its directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opsin.classification.config import ClassificationConfig, ViTConfig
from opsin.data.datasets import ImageDataset, batches_of, numbered_dataset
from opsin.data.pixels import pixel_batches
from opsin.encoders.base import DenseNetworkEncoder
from opsin.encoders.own import EncoderModel
from opsin.images.opening import ImageLike, ImageReader, StoredImage
from opsin.images.preprocessing import Preprocessing
from opsin.model_cards import CardText, escape_markdown
from opsin.nn.vision_transformer import VisionTransformer
from opsin.pretrained import Example, ModelContent, model_class
from opsin.progress import Progress, tracked, working
from opsin.results import Answers, Classification
from opsin.runtime import autocast, refuse_damaged
from opsin.sources.image_source import ImageSource

DATASET_BATCH = 500
"""Images of a dataset that are read together."""
NAMES_SHOWN = 20
"""Of the classes, in a model card."""


@dataclass(frozen=True, kw_only=True)
class ClassifierContent(ModelContent[ClassificationConfig]):
    """What describes a classifier."""

    config_class = ClassificationConfig
    model: ViTConfig
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


class Classifier(EncoderModel, DenseNetworkEncoder):
    """A Vision Transformer with its class names, preprocessing and metrics: all that its directory holds.

    It is an encoder of images as well: its features are what the head gets, and its patches the final tokens but the
    class token.
    """

    kind = "vit-classifier"
    content_class = ClassifierContent
    views = "one centre crop"
    """What is looked at of each image."""
    model: VisionTransformer
    content: ClassifierContent

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.content.class_names

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> Classifier:
        """See `PretrainedModel.from_pretrained`; `imagenet` is a classifier of photographs of 1,000 things."""
        found = model_class(ref)
        if issubclass(found, Classifier) and found.kind != cls.kind:
            return found.from_pretrained(ref, device, precision)
        return super().from_pretrained(ref, device, precision)

    @classmethod
    def build(cls, content: ClassifierContent) -> VisionTransformer:
        return build_model(content.model, content.preprocessing.image_size, len(content.class_names))

    def weights(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if not name.startswith("head.")}

    def example_inputs(self) -> Example:
        return Example.of_image(self.model, self.preprocessing.image_size)

    def card_text(self) -> CardText:
        count = len(self.class_names)
        names = ", ".join(map(escape_markdown, self.class_names[:NAMES_SHOWN]))
        more = f" and {count - NAMES_SHOWN} more" if count > NAMES_SHOWN else ""
        return CardText(
            title="Vision Transformer classifier",
            tags=("image-classification",),
            description=f"""
Tells apart {count} classes: {names}{more}.

Trained with opsin on the source {self.trained_on()}; `config.json` holds every
setting of the run under `training`, the class names and the preprocessing.
""",
            notes="""
`val_…` is on images held out from training, `test_…` on the source's test split. The model knows nothing but images
of that source: expect worse on images that differ from them.
""",
            command="opsin classify IMAGES --model THIS_DIRECTORY",
        )

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

    def classify_files(
        self,
        files: Sequence[Path | StoredImage],
        *,
        model: str | None = None,
        top_k: int = 5,
        batch_size: int = 64,
        progress: Progress | None = None,
        each: Callable[[Path | StoredImage, Classification], None] | None = None,
    ) -> Answers[Classification]:
        """The `top_k` classes of each file that can be read; see `opsin.sources.opening.list_inputs`, `Answers.gather`.

        `model` is what the result calls the model. Raises Cancelled as well.
        """
        reader = ImageReader(files, self.preprocessing.image_size)
        images = tracked(reader, progress, "classifying", len(files))
        found = self.classify_each(images, top_k=top_k, batch_size=batch_size)
        return Answers.gather(reader, found, each, model=model or self.name, column="classes")

    def _scores(self, images: ImageLike | Iterable[ImageLike], batch_size: int) -> Iterator[Tensor]:
        """Scores (N, K) of at most `batch_size` images at a time."""
        for pixels in pixel_batches(images, self.preprocessing.image_size, batch_size):
            yield self.predict_pixels(pixels)

    def predict_source(self, source: ImageSource, progress: Progress | None = None) -> tuple[ImageSource, Tensor]:
        """The readable images of a source, and their scores (N, K) float32 on the CPU. Raises Cancelled."""
        dataset = numbered_dataset(source, self.preprocessing.image_size)
        scores, rows = self.predict_dataset(dataset, progress)
        return replace(source.select(rows.numpy()), skipped=list(dataset.skipped)), scores

    def predict_dataset(self, dataset: ImageDataset, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
        """Scores (N, K) and labels (N,) of a labelled dataset, on the CPU. Raises Cancelled."""
        scores, labels = [], []
        with working(progress, "classifying", len(dataset)) as advance:
            for batch in batches_of(dataset, DATASET_BATCH):
                scores.append(self.predict_pixels(batch["image"]))
                labels.append(batch["label"])
                advance(len(batch["label"]))
        return torch.cat(scores), torch.cat(labels)

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
            maps.append(attention_rollout(weights, self.content.model.pool, self.model.grid_size).cpu().numpy())
        grid = self.model.grid_size
        return np.concatenate(maps) if maps else np.zeros((0, grid, grid), dtype=np.float32)

    def _pooled(self, images: Tensor) -> Tensor:
        return self.model.pooled(images)

    @property
    def patch_size(self) -> int:  # type: ignore[override]
        return self.model.patch_size

    def _dense(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.model.patch_tokens(images)


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
