"""Fine-tuning: all weights of an encoder, and a linear classifier on it, trained on labelled images.

Only crops and mirror images augment the training, as in SimCLR's own fine-tuning (Chen et al. 2020, appendix B.5).
Deviations: AdamW with a cosine instead of SGD with momentum, and images of one size.

Dimensions: N images, S pixels, K classes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.config import to_dict
from opsin.data.datasets import ImageDataset, batches_of
from opsin.errors import TrainingInterrupted
from opsin.images.preprocessing import Preprocessing
from opsin.progress import Progress
from opsin.runtime import autocast, seeded
from opsin.simclr.config import AugmentConfig
from opsin.simclr.data import random_view
from opsin.simclr.inference import SimclrEncoder
from opsin.training.config import TrainingConfig
from opsin.training.task import Batch, StepOutput, Task
from opsin.training.trainer import Trainer

EPOCHS = 20
BATCH_SIZE = 128
LEARNING_RATE = 1e-3


class FinetuneTask(Task):
    """Cross-entropy of a classifier on crops of labelled images."""

    smallest_batch = 2
    """Of a tiny image a network makes a map of 1 x 1, and a single value has no deviation for a BatchNorm to divide
    by."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, augment: AugmentConfig) -> None:
        super().__init__(model)
        self.preprocessing = preprocessing
        self.augment = augment

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        images = random_view(batch["image"].float() / 255, self.preprocessing.image_size, self.augment, generator)
        scores = self.model(self.preprocessing.normalize(images))
        return StepOutput(F.cross_entropy(scores.float(), batch["label"]), {})

    def evaluate(self) -> dict[str, float]:
        return {}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        """Nothing: the classifier is evaluated and not kept."""


def finetune(
    encoder: SimclrEncoder,
    labelled: ImageDataset,
    num_classes: int,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """A classifier from network input (N, 3, S, S) to scores (N, K), of a copy of the encoder, ready to be used.

    Raises what `Trainer.fit` raises; after SIGINT or SIGTERM nothing is kept.
    """
    flip = encoder.run is None or encoder.run.config.augment.flip
    augment = AugmentConfig(min_crop=0.2, flip=flip, jitter=0.0, grayscale=0.0)
    with seeded(seed, "finetune"):
        network: Any = copy.deepcopy(encoder.model.encoder).requires_grad_(True)
        model = nn.Sequential(network, nn.Linear(network.feature_dim, num_classes))
    config = TrainingConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=1e-4,
        validations=0,
        export="last",
        device=str(encoder.device),
        precision=encoder.precision,  # type: ignore[arg-type]
        seed=seed,
    )
    task = FinetuneTask(model, encoder.preprocessing, augment)
    with tempfile.TemporaryDirectory() as directory:
        try:
            Trainer(config, directory, progress=progress).fit(task, labelled, to_dict(config))
        except TrainingInterrupted as error:
            raise TrainingInterrupted(
                "fine-tuning was stopped, and nothing of it is kept; run the command again", error.exit_code - 128
            ) from error
    return model.to(encoder.device).eval()


@torch.inference_mode()
def predict(classifier: nn.Module, dataset: ImageDataset, encoder: SimclrEncoder) -> tuple[Tensor, Tensor]:
    """Scores (N, K) and labels (N,) of a labelled dataset, on the CPU; the encoder says how to prepare images."""
    scores, labels = [], []
    for batch in batches_of(dataset, 256):
        images = encoder.preprocessing.prepare(batch["image"].to(encoder.device))
        with autocast(encoder.device, encoder.precision):
            scores.append(classifier(images).float().cpu())
        labels.append(batch["label"])
    return torch.cat(scores), torch.cat(labels)
