"""Using a trained classifier: labels for images, attention maps, and its directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsin import checkpoint
from opsin.classification.config import ViTConfig
from opsin.classification.model_card import model_card
from opsin.config import from_dict, to_dict
from opsin.data.images import ImageLike
from opsin.data.pixels import fit_image
from opsin.data.preprocessing import Preprocessing
from opsin.nn.vision_transformer import VisionTransformer
from opsin.runtime import autocast, resolve_device, resolve_precision

KIND = "vit-classifier"


@dataclass(frozen=True)
class Classification:
    """The most probable classes of one image, best first; probabilities are of all classes, so may sum to below 1."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


class Classifier:
    """A Vision Transformer with its class names, preprocessing and metrics: all that its directory holds."""

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
        """`training` is the resolved config of the run that made the model, as JSON types; `precision` is what scores
        are computed in: auto, 32, bf16 or 16. Raises ConfigError for one that the model's device lacks."""
        self.model = model.eval()
        self.config = config
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.metrics = dict(metrics or {})
        self.training = dict(training or {})
        self.precision = precision
        resolve_precision(precision, self.device)  # refuses here what scoring would refuse later

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @classmethod
    def from_pretrained(cls, ref: str | Path, device: str = "auto", precision: str = "auto") -> Classifier:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

        Raises CheckpointError, OfflineError, and ConfigError for a device or precision that this machine lacks.
        """
        content, tensors = checkpoint.load_pretrained(ref, kind=KIND)
        settings = from_dict(_Content, content, where=f"{ref}, config.json")
        model = build_model(settings.model, settings.preprocessing.image_size, len(settings.class_names))
        checkpoint.load_state_dict(model, tensors, str(ref))
        return cls(
            model.to(resolve_device(device)),
            settings.model,
            settings.class_names,
            settings.preprocessing,
            metrics=settings.metrics,
            training=settings.training,
            precision=precision,
        )

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, model.safetensors and README.md, replacing the directory in one step."""
        content = _Content(
            model=self.config,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            metrics=self.metrics,
            training=self.training,
        )
        card = model_card(self.class_names, self.metrics, self.training)
        return checkpoint.save_pretrained(
            directory, kind=KIND, config=to_dict(content), tensors=self.model.state_dict(), card=card
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face Hub; returns the repository's address."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return checkpoint.push_to_hub(self.save_pretrained(Path(folder) / "model"), repo_id, private=private)

    def classify(self, images: Iterable[ImageLike], *, top_k: int = 5, batch_size: int = 64) -> list[Classification]:
        """The `top_k` classes of each image (paths, PIL images or arrays). Raises DataError for a broken one."""
        results = []
        for pixels in self._pixel_batches(images, batch_size):
            values, indices = self.predict_pixels(pixels).softmax(dim=1).topk(min(top_k, len(self.class_names)), dim=1)
            for row_values, row_indices in zip(values.tolist(), indices.tolist(), strict=True):
                labels = tuple(self.class_names[index] for index in row_indices)
                results.append(Classification(labels, tuple(row_values)))
        return results

    @torch.inference_mode()
    def predict_pixels(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Scores (N, K) float32 on the CPU for uint8 pixels (N, 3, image_size, image_size)."""
        scores = []
        for chunk in pixels.split(batch_size):
            images = self.preprocessing.prepare(chunk.to(self.device))
            with autocast(self.device, self.precision):
                scores.append(self.model(images).float().cpu())
        return torch.cat(scores)

    def attention_maps(self, images: Iterable[ImageLike], *, batch_size: int = 32) -> np.ndarray:
        """Attention rollout of each image, float32 (N, grid, grid), each map summing to one.

        Rollout ("Quantifying Attention Flow in Transformers", Abnar and Zuidema 2020) multiplies the layers' weights,
        averaged over heads and with half of the residual path, into the share that each patch has in what the model
        pools: the class token, or the mean over patches.
        """
        maps = []
        for pixels in self._pixel_batches(images, batch_size):
            weights = self.model.attention_weights(self.preprocessing.prepare(pixels.to(self.device)))
            maps.append(attention_rollout(weights, self.config.pool, self.model.grid_size).cpu().numpy())
        grid = self.model.grid_size
        return np.concatenate(maps) if maps else np.zeros((0, grid, grid), dtype=np.float32)

    def _pixel_batches(self, images: Iterable[ImageLike], batch_size: int) -> Iterable[Tensor]:
        batch: list[np.ndarray] = []
        for image in images:
            batch.append(fit_image(image, self.preprocessing.image_size))
            if len(batch) == batch_size:
                yield torch.from_numpy(np.stack(batch))
                batch = []
        if batch:
            yield torch.from_numpy(np.stack(batch))


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


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What config.json of a classifier holds besides its kind and format version."""

    model: ViTConfig
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: dict[str, float]
    training: dict[str, Any]
