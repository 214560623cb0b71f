"""Training a classifier: the loss of one augmented batch, and validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from opsin.classification.config import ClassificationConfig
from opsin.classification.data import ClassSplits
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.config import json_digest
from opsin.data.datasets import ImageDataset, batches_of, preprocessing_for
from opsin.images.augment import mix, vary
from opsin.images.preprocessing import Preprocessing
from opsin.nn.vision_transformer import VisionTransformer
from opsin.pretrained import RunRecord
from opsin.runtime import seeded
from opsin.training.metrics import classification_metrics
from opsin.training.selection import ERROR, error_of_share
from opsin.training.task import Batch, StepOutput, Task


class ClassificationTask(Task[VisionTransformer]):
    """Cross-entropy on augmented, possibly mixed images."""

    monitor = "val_accuracy"
    higher_is_better = True

    def __init__(
        self,
        model: VisionTransformer,
        run: RunRecord[ClassificationConfig],
        class_names: tuple[str, ...],
        preprocessing: Preprocessing,
        validation: ImageDataset | None,
    ) -> None:
        """`validation` is labelled data or None."""
        super().__init__(model)
        self.run = run
        self.augment = run.config.augment
        self.class_names = class_names
        self.preprocessing = preprocessing
        self.validation = validation

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
        loss = F.cross_entropy(scores.float(), targets, label_smoothing=self.augment.label_smoothing)
        accuracy = (scores.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
        return StepOutput(loss, {"accuracy": accuracy.detach()})

    def evaluate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        scores, labels = evaluate_dataset(self.classifier(), self.validation)
        metrics = classification_metrics(scores, labels)
        error = error_of_share(metrics.accuracy, metrics.count)
        return {"val_accuracy": metrics.accuracy, "val_accuracy" + ERROR: error, "val_loss": metrics.loss}

    def foundations(self) -> dict[str, str]:
        return {"list of classes": json_digest(self.class_names), **self.run.foundations()}

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        self.classifier(metrics).save_pretrained(directory)

    def classifier(self, metrics: Mapping[str, float] | None = None) -> Classifier:
        """The model in its present state, ready for use."""
        config = self.run.config
        content = ClassifierContent(
            model=config.model,
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            metrics=dict(metrics or {}),
            run=self.run,
        )
        return Classifier(self.model, content, precision=config.training.precision)


def build_task(config: ClassificationConfig, splits: ClassSplits) -> ClassificationTask:
    """The task of a run, with a model initialized from the run's seed."""
    preprocessing = preprocessing_for(splits.train, config.image_size)
    run = RunRecord(config=config, source_digest=splits.source_digest)
    with seeded(config.seed, "weights"):
        model = build_model(config.model, config.image_size, len(splits.class_names))
    return ClassificationTask(model, run, splits.class_names, preprocessing, splits.val)


def evaluate_dataset(classifier: Classifier, dataset: ImageDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (N, K) and labels (N,) of a labelled dataset, on the CPU."""
    scores, labels = [], []
    for batch in batches_of(dataset, 500):
        scores.append(classifier.predict_pixels(batch["image"]))
        labels.append(batch["label"])
    return torch.cat(scores), torch.cat(labels)
