"""Training a classifier: the loss of one augmented batch, validation, and a whole run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from opsin.classification.config import ClassificationConfig, FinetuneConfig
from opsin.classification.data import ClassSplits, open_splits
from opsin.classification.evaluation import measure_run
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.config import json_digest
from opsin.data.datasets import preprocessing_for
from opsin.images.augment import mix, vary
from opsin.images.preprocessing import Preprocessing
from opsin.nn.vision_transformer import VisionTransformer
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.runtime import seeded
from opsin.training.metrics import classification_metrics
from opsin.training.run import TrainReport, run_training
from opsin.training.selection import ERROR, error_of_share
from opsin.training.task import Batch, StepOutput, Task

FEW_IMAGES = 2_000
"""Of fewer training images a network learns little that a pretrained one does not know better."""


class ClassificationTask(Task[VisionTransformer]):
    """Cross-entropy on augmented, possibly mixed images."""

    monitor = "val_accuracy"
    higher_is_better = True
    class_weights: torch.Tensor | None = None
    """Factors (K,) on the loss of each class."""

    def __init__(
        self,
        config: ClassificationConfig | FinetuneConfig,
        splits: ClassSplits,
        model: Any = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """With a Vision Transformer initialized from the run's seed, or with another `model`."""
        if isinstance(config, ClassificationConfig):
            with seeded(config.seed, "weights"):
                model = build_model(config.model, config.image_size, len(splits.class_names))
        super().__init__(model, RunRecord(config=config, source_digest=splits.source_digest))
        self.config = config
        self.augment = config.augment
        self.preprocessing = preprocessing or preprocessing_for(splits.train, config.image_size)
        self.class_names = splits.class_names
        self.validation = splits.val

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        labels = batch["label"]
        images = vary(
            batch["image"].float() / 255,
            generator,
            flip=self.augment.flip,
            shift=self.augment.shift,
            augment_ops=self.augment.augment_ops,
            augment_magnitude=self.augment.augment_magnitude,
        )
        targets = F.one_hot(labels, len(self.class_names)).float()
        images, targets = mix(images, targets, self.augment.mixup, self.augment.cutmix, generator)
        scores = self.model(self.preprocessing.normalize(images))
        weights = None if self.class_weights is None else self.class_weights.to(scores.device)
        smoothing = self.augment.label_smoothing
        loss = F.cross_entropy(scores.float(), targets, weights, label_smoothing=smoothing)
        accuracy = (scores.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
        return StepOutput(loss, {"accuracy": accuracy.detach()})

    def evaluate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        scores, labels = self.classifier().predict_dataset(self.validation)
        metrics = classification_metrics(scores, labels)
        error = error_of_share(metrics.accuracy, metrics.count)
        return {"val_accuracy": metrics.accuracy, "val_accuracy" + ERROR: error, "val_loss": metrics.loss}

    def foundations(self) -> dict[str, str]:
        return {"list of classes": json_digest(self.class_names), **super().foundations()}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        self.classifier(metrics).save_pretrained(directory)

    def classifier(self, metrics: Mapping[str, float] | None = None) -> Classifier:
        """The model in its present state, ready for use."""
        assert isinstance(self.config, ClassificationConfig)
        content = ClassifierContent(
            model=self.config.model,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            metrics=dict(metrics or {}),
            run=self.run,
        )
        return Classifier(self.model, content, precision=self.config.training.precision)


def train_classifier(
    config: ClassificationConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[ClassSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source, where it has one, is evaluated once, after training. Raises DataError when the data
    cannot be used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    if len(splits.train) < FEW_IMAGES:
        command = f"opsin train classifier --data {shlex.quote(config.data)} --out DIR"
        (progress or Progress()).note(
            f"{len(splits.train):,} images are few to learn from scratch on; for photographs, `{command}` uses a "
            "pretrained network, in seconds"
        )
    task = ClassificationTask(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)
