"""Evaluating a SimCLR encoder by training on augmented images: the course's linear layer, and fine-tuning.

Dimensions: N images, D width of the features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from opsin.data.datasets import ImageDataset, batches_of, image_dataset
from opsin.encoders.base import ImageEncoder
from opsin.errors import ConfigError
from opsin.pictures import confusion_figure
from opsin.probing.evaluation import Evaluation, ProbeProtocol, ProbeResult
from opsin.probing.evaluation_set import EvaluationSet, encode
from opsin.probing.linear_probe import LinearProbe, accuracy
from opsin.progress import Progress
from opsin.runtime import autocast, make_generator
from opsin.simclr.config import AugmentConfig
from opsin.simclr.data import random_view
from opsin.simclr.finetune import EPOCHS, finetune, predict
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.pictures import comparison_figure
from opsin.training.metrics import classification_metrics

COURSE_EPOCHS = 10
COURSE_BATCH = 128
COURSE_LEARNING_RATE = 1e-3
COURSE_WEIGHT_DECAY = 1e-6


class _OfSimclr(ProbeProtocol):
    """Goes through the network of the encoder, and thus takes a SimclrEncoder only."""

    default_fraction = 0.1  # the course's

    def open(self, encoder: ImageEncoder, data: str | None, split: str | None) -> EvaluationSet:
        if not isinstance(encoder, SimclrEncoder):
            raise ConfigError(
                f"the protocol {self.name} trains on augmented images, which is for models of SimCLR; evaluate "
                f"{encoder.name} by knn or linear"
            )
        return super().open(encoder, data, split)


@dataclass(frozen=True, kw_only=True)
class LinearCourse(_OfSimclr):
    """The course's linear layer on the frozen encoder: ten augmented views of each labelled image, Adam.

    Deviation from the course: the encoder's BatchNorm keeps the statistics of its training.
    """

    name = "linear-course"

    def score(self, encoder: ImageEncoder, images: EvaluationSet, *, progress: Progress | None = None) -> ProbeResult:
        assert isinstance(encoder, SimclrEncoder)
        test = encode(images.test, encoder, unit=False, progress=progress)
        dataset = image_dataset(images.labelled, encoder.preprocessing.image_size)
        labelled = _count_readable(dataset)
        generator = make_generator(self.seed, "views", device=encoder.device)
        views = (_view_features(encoder, dataset, generator) for _ in range(COURSE_EPOCHS))
        order = make_generator(self.seed, "linear-seed")  # the protocol's earlier name: its scores stay reproducible
        curve, scores = [], torch.empty(0)
        for probe in train_course_probe(views, images.num_classes, order):
            scores = probe.scores(test.features)
            curve.append(accuracy(scores, test.labels))
        skipped = tuple(dict.fromkeys((*dataset.skipped, *test.source.skipped)))
        return ProbeResult(classification_metrics(scores, test.labels), labelled, skipped, curve=tuple(curve))

    def words(self, result: ProbeResult, share: str) -> str:
        return (
            f"linear layer on the frozen encoder, {share}, augmented, Adam, {COURSE_EPOCHS} epochs, batches of "
            f"{COURSE_BATCH}"
        )

    def figure(self, encoder: ImageEncoder, evaluation: Evaluation) -> Figure:
        """The accuracy after each epoch, with pretraining and without it."""
        assert evaluation.untrained is not None
        return comparison_figure(evaluation.untrained.curve, evaluation.trained.curve)


@dataclass(frozen=True, kw_only=True)
class Finetune(_OfSimclr):
    """All weights, and a linear classifier on them, trained for some epochs; see `opsin.simclr.finetune`."""

    name = "finetune"
    epochs: int = EPOCHS

    def score(self, encoder: ImageEncoder, images: EvaluationSet, *, progress: Progress | None = None) -> ProbeResult:
        assert isinstance(encoder, SimclrEncoder)
        size = encoder.preprocessing.image_size
        labelled, test = image_dataset(images.labelled, size), image_dataset(images.test, size)
        count = _count_readable(labelled)
        classifier = finetune(
            encoder, labelled, images.num_classes, epochs=self.epochs, seed=self.seed, progress=progress
        )
        scores, labels = predict(classifier, test, encoder)
        skipped = tuple(dict.fromkeys((*labelled.skipped, *test.skipped)))
        return ProbeResult(classification_metrics(scores, labels), count, skipped)

    def words(self, result: ProbeResult, share: str) -> str:
        return f"all weights fine-tuned on {share}, {self.epochs} epochs"

    def figure(self, encoder: ImageEncoder, evaluation: Evaluation) -> Figure:
        """The confusion matrix."""
        return confusion_figure(evaluation.trained.metrics.confusion, evaluation.class_names)


def train_course_probe(
    views: Iterable[tuple[Tensor, Tensor]], num_classes: int, generator: Generator
) -> Iterator[LinearProbe]:
    """The course's training, an epoch for each of `views`, and the probe after each of them.

    Each of `views` has the features (N, D) of another view of all images, and their labels int64 (N,). Adam with a
    learning rate of 0.001 and a weight decay of 1e-6 sees them in batches of 128, in an order drawn from `generator`,
    which is on the CPU and decides the first weights too; these are distributed as those of torch's Linear.
    """
    layer: nn.Linear | None = None
    for features, labels in views:
        if layer is None:
            layer = _new_layer(features.shape[1], num_classes, generator).to(features.device)
            optimizer = torch.optim.Adam(layer.parameters(), lr=COURSE_LEARNING_RATE, weight_decay=COURSE_WEIGHT_DECAY)
        for rows in torch.randperm(len(labels), generator=generator).split(COURSE_BATCH):
            with torch.enable_grad():
                loss = F.cross_entropy(layer(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield LinearProbe(layer.weight.detach().clone(), layer.bias.detach().clone())


def _new_layer(width: int, num_classes: int, generator: Generator) -> nn.Linear:
    layer = nn.Linear(width, num_classes, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) / math.sqrt(width))
    return layer


@torch.no_grad()
def _view_features(encoder: SimclrEncoder, dataset: ImageDataset, generator: Generator) -> tuple[Tensor, Tensor]:
    """Features float32 (N, D) of a view of each image, as the course augments, and their labels, on the CPU."""
    size = encoder.preprocessing.image_size
    features, labels = [], []
    for batch in batches_of(dataset, 256):
        images = random_view(batch["image"].to(encoder.device).float() / 255, size, AugmentConfig(), generator)
        with autocast(encoder.device, encoder.precision):
            features.append(encoder.model.encoder(encoder.preprocessing.normalize(images)).float().cpu())
        labels.append(batch["label"])
    return torch.cat(features), torch.cat(labels)


def _count_readable(dataset: ImageDataset) -> int:
    """Images that can be read: a data set that reads its files as needed has not found the broken ones yet."""
    return sum(len(batch["image"]) for batch in batches_of(dataset, 256))
