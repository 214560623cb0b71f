"""Training by SimCLR: the loss of two views of each image, what the features are worth meanwhile, and a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.checkpoint import load_pretrained
from opsin.data.datasets import ImageDataset, batches_of, preprocessing_for
from opsin.pretrained import RunRecord
from opsin.probing.evaluation import ADVICE
from opsin.probing.knn import default_neighbours, knn_predict
from opsin.progress import Progress
from opsin.runtime import autocast, evaluating, make_generator, resolve_device, seeded
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import SimclrSplits, open_splits, two_views
from opsin.simclr.inference import SimclrContent, SimclrEncoder
from opsin.simclr.loss import nt_xent_loss
from opsin.simclr.model import SimclrModel, build_model
from opsin.sources.image_source import UNLABELLED
from opsin.state_dicts import load_state_dict
from opsin.training.baselines import UNTRAINED, compare_accuracy, compare_paired
from opsin.training.run import FinalScores, TrainReport, run_training
from opsin.training.selection import ERROR, error_of_share
from opsin.training.task import Batch, StepOutput, Task

KNN_ACCURACY = "val_knn_accuracy"


class SimclrTask(Task[SimclrModel]):
    """NT-Xent over the projections of two views of each image (Chen et al. 2020, algorithm 1).

    Both views go through the network in one batch, so that a BatchNorm sees them together, in each process of a run
    those of its own images. The loss of a single image is zero, for there is nothing to tell it from: an epoch leaves a
    last batch of one image out.
    """

    smallest_batch = 2

    def __init__(self, config: SimclrConfig, splits: SimclrSplits) -> None:
        """With a network initialized from the run's seed. Weights are chosen by the accuracy of nearest neighbors where
        the images have labels, else by the loss."""
        with seeded(config.seed, "weights"):
            model = build_model(config)
        super().__init__(model, RunRecord(config=config, source_digest=splits.source_digest))
        self.config = config
        self.preprocessing = preprocessing_for(splits.train, config.image_size)
        self.splits = splits
        if splits.bank is not None:
            self.monitor, self.higher_is_better = KNN_ACCURACY, True
        if config.compile:
            model.compile(dynamic=False)  # batches have few sizes: whole, the last of an epoch, validation

    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        left, right = self._projections(batch["image"], generator)
        loss = nt_xent_loss(left, right, self.config.temperature)
        return StepOutput(loss, {"positive_cosine": (left * right).sum(dim=1).float().mean().detach()})

    def evaluate(self) -> dict[str, float]:
        if self.splits.val is None:
            return {}
        metrics = {}
        with evaluating(self.model), torch.no_grad():
            loss = self._validation_loss(self.splits.val)
            if loss is not None:
                metrics["val_loss"] = loss
            if self.splits.bank is not None:
                right = self.knn_right()
                metrics[KNN_ACCURACY] = float(right.mean())
                metrics[KNN_ACCURACY + ERROR] = error_of_share(metrics[KNN_ACCURACY], len(right))
        return metrics

    @torch.no_grad()
    def knn_right(self) -> np.ndarray:
        """Whether the nearest neighbors of each labelled validation image name its class, bool (N,), with the model as
        it is; both these and the images to look among must be there."""
        assert self.splits.val is not None and self.splits.bank is not None
        features, labels = self._features(self.splits.val)
        bank_features, bank_labels = self._features(self.splits.bank)
        k = default_neighbours(bank_labels)
        scores = knn_predict(features, bank_features, bank_labels, self.splits.num_classes, k=k)
        return (scores.argmax(dim=1) == labels).cpu().numpy()

    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        content = SimclrContent(
            encoder=self.config.encoder,
            projection=(self.config.projection_hidden, self.config.projection_dim),
            preprocessing=self.preprocessing,
            metrics=dict(metrics),
            run=self.run,
        )
        SimclrEncoder(self.model, content).save_pretrained(directory)

    def _projections(self, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Projections (N, E) of a view each of uint8 images (N, 3, S, S), and of another one."""
        views = two_views(pixels.float() / 255, self.config.view_size, self.config.augment, generator)
        _, projections = self.model(self.preprocessing.normalize(views))
        left, right = projections.chunk(2)
        return left, right

    def _validation_loss(self, dataset: ImageDataset) -> float | None:
        """The mean over images of the loss in batches as they are trained on, always with the same views; None where no
        batch has two images."""
        generator = make_generator(self.config.training.seed, "validation", device=self._model_device)
        total, count = 0.0, 0
        for batch in batches_of(dataset, self.config.training.batch_size):
            size = len(batch["image"])
            if size >= self.smallest_batch:
                with autocast(self._model_device, self.config.training.precision):
                    left, right = self._projections(batch["image"].to(self._model_device), generator)
                total += size * float(nt_xent_loss(left, right, self.config.temperature, gather=False))
                count += size
        return total / count if count else None

    def _features(self, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
        """Features (N, D) of length one and labels (N,) of the images that have one, on the model's device."""
        features, labels = [], []
        for batch in batches_of(dataset, 256):
            known = batch["label"] != UNLABELLED
            if not known.any():
                continue
            images = self.preprocessing.prepare(batch["image"][known].to(self._model_device))
            with autocast(self._model_device, self.config.training.precision):
                encoded = self.model.encoder(images)
            features.append(F.normalize(encoded.float(), dim=1))
            labels.append(batch["label"][known].to(self._model_device))
        return torch.cat(features), torch.cat(labels)

    @property
    def _model_device(self) -> torch.device:
        return next(self.model.parameters()).device


def train_simclr(
    config: SimclrConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[SimclrSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source is not looked at. Raises DataError when the data cannot be used for this, and what
    `Trainer.fit` raises.
    """
    splits = open_splits(config)
    task = SimclrTask(config, splits)
    return run_training(config, directory, task, splits, measure_run, resume=resume, progress=progress)


def measure_run(config: SimclrConfig, splits: SimclrSplits, model: Path, metrics: Mapping[str, float]) -> FinalScores:
    """The accuracy of nearest neighbors beside always guessing the largest class, and beside the network that the run
    began with, for `run_training`."""
    if KNN_ACCURACY not in metrics or splits.val is None:
        return FinalScores()
    labels = np.concatenate([batch["label"].numpy() for batch in batches_of(splits.val, 256)])
    task = SimclrTask(config, splits).to(resolve_device(config.training.device)).eval()
    untrained = task.knn_right()
    load_state_dict(task.model, load_pretrained(model, kind=SimclrEncoder.kind)[1], str(model))
    right = task.knn_right()
    guessing = compare_accuracy(float(right.mean()), labels, ADVICE)
    return FinalScores({}, (*guessing, *compare_paired("accuracy", right, UNTRAINED, untrained, ADVICE)))
