"""Judging an encoder by labels that it was not trained on, beside the same encoder untrained.

Features of whole images come from the cache of `opsin.encoders.features`, about a thousand images at a time, so that an
evaluation that was stopped goes on where it was, and another one finds there what whole blocks it has in common with
this one: with the same seed the labelled images of a share are the first ones of a larger share. All of them, however,
are in the order of seed 0, whatever the seed is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from opsin.counts import none_of, number_of
from opsin.data.datasets import ImageDataset, batches_of, image_dataset
from opsin.data.repeats import Overlap, find_overlap
from opsin.encoders.base import ImageEncoder
from opsin.encoders.features import source_features, source_vectors
from opsin.errors import ConfigError, DataError
from opsin.images.opening import Skipped
from opsin.runtime import autocast, make_generator, seeded
from opsin.simclr.config import AugmentConfig
from opsin.simclr.finetune import EPOCHS, finetune, predict
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.judged_data import JudgedData, chosen_on, open_judged, refuse_too_few, some_labelled
from opsin.simclr.knn import TEMPERATURE, default_neighbours, knn_predict
from opsin.simclr.linear_probe import (
    SEED_EPOCHS,
    accuracy,
    choose_logistic_regression,
    standardisation,
    train_seed_probe,
)
from opsin.simclr.model import SimclrModel, build_encoder
from opsin.simclr.views import random_view
from opsin.sources.image_source import ImageSource, NothingReadable
from opsin.training.baselines import BaselineComparison, compare_accuracy, compare_measured
from opsin.training.metrics import ClassificationMetrics, classification_metrics

ProtocolName = Literal["knn", "linear", "linear-seed", "finetune"]
IMAGES_AT_A_TIME = 1024
ADVICE = "train the encoder longer (--max-minutes) or on more images, or take a pretrained one (imagenet, timm:NAME)"


@dataclass(frozen=True)
class Protocol:
    """How to judge. Without `labels_fraction` nearest neighbours use all labels, and the others a tenth of them.

    `k` and `temperature` are those of `knn`, `epochs` those of `finetune`. Without `k` the number of neighbours follows
    the labelled images, see `default_neighbours`.
    """

    name: ProtocolName = "knn"
    labels_fraction: float | None = None
    k: int | None = None
    temperature: float = TEMPERATURE
    epochs: int = EPOCHS
    seed: int = 0
    exclude: tuple[str, ...] = ()
    """Patterns of images to leave out; see `opsin.sources.exclusion`."""
    train_data: str | None = None
    """A source of its own that labels come from; see `open_judged`."""

    @property
    def fraction(self) -> float:
        """The share of the labels that is used."""
        if self.labels_fraction is not None:
            return self.labels_fraction
        return 1.0 if self.name == "knn" else 0.1


@dataclass(frozen=True)
class Judged:
    """Scores of one encoder on the test images; `metrics.loss` means nothing for the votes of neighbours.

    `labelled` images had labels. `k` neighbours voted, fewer than asked for where there are fewer. `strength` is the
    regularisation that `linear` chose on `held_out` of the labelled images; `curve` has the accuracy after each epoch
    of `linear-seed`.
    """

    metrics: ClassificationMetrics
    labelled: int
    skipped: tuple[Skipped, ...]
    k: int | None = None
    strength: float | None = None
    held_out: int | None = None
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the protocol that they belong to in words; `untrained` is the same network with the weights that a
    run begins with, where that can be made. There are `labels` in all that could have been used. `other` is another
    protocol that these are enough for, where there is one. `overlap` is that of the test images with those whose labels
    were used."""

    data: str
    split: str
    protocol: str
    labels: int
    other: Protocol | None
    class_names: tuple[str, ...]
    trained: Judged
    untrained: Judged | None
    overlap: Overlap

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """The accuracy beside always guessing the largest class, and beside that of the untrained network."""
        metrics = self.trained.metrics
        largest = compare_accuracy(metrics.accuracy, metrics.labels, metrics.num_classes, ADVICE)
        if self.untrained is None:
            return (largest,)
        twin = self.untrained.metrics.accuracy
        name = "the same network untrained"
        return largest, compare_measured("accuracy", metrics.accuracy, name, twin, metrics.count, ADVICE)


def evaluate_encoder(
    encoder: ImageEncoder,
    protocol: Protocol,
    data: str | None = None,
    split: str | None = None,
    *,
    near_duplicates: bool = False,
    quiet: bool = True,
) -> Evaluation:
    """Judge on a split of a source, by default the one that the encoder was trained on; see `open_judged`.

    With `near_duplicates`, test images are also compared with the labelled ones by what they look like.

    `linear-seed` and `finetune` go through the network, and take a SimclrEncoder only. Raises ConfigError for settings
    that cannot be, DataError for a source that has no labels, one class only, no such split, or too few labels.
    """
    if protocol.name in ("linear-seed", "finetune") and not isinstance(encoder, SimclrEncoder):
        raise ConfigError(
            f"the protocol {protocol.name} trains on changed images, which is for models of SimCLR; judge "
            f"{encoder.name} by knn or linear"
        )
    parts = open_judged(encoder, data, split, protocol.fraction, protocol.seed, protocol.exclude, protocol.train_data)
    if protocol.name == "linear":
        refuse_too_few(parts, protocol.fraction, protocol.seed)
    judge = _JUDGES[protocol.name]
    trained = judge(encoder, parts, protocol, quiet)
    untrained = None
    if isinstance(encoder, SimclrEncoder):
        untrained = judge(untrained_encoder(encoder), parts, protocol, quiet)
    images = f"{number_of(trained.metrics.count, 'image')} of {parts.data!r}, split {parts.split!r}"
    words = f"{images}: {_words(protocol, trained, parts)}"
    if parts.seen:
        words += "; the encoder may have been trained on these images"
    return Evaluation(
        data=parts.data,
        split=parts.split,
        protocol=words,
        labels=len(parts.pool),
        other=Protocol(train_data=parts.train_data) if protocol.name == "linear" else _linear(parts),
        class_names=parts.class_names,
        trained=trained,
        untrained=untrained,
        overlap=find_overlap(parts.test, parts.labelled, parts.split, near=near_duplicates),
    )


def untrained_encoder(encoder: SimclrEncoder) -> SimclrEncoder:
    """The network that the encoder's run began with: random weights, and statistics of a BatchNorm that has seen
    nothing. (With statistics of real images kNN and linear probe of a ResNet come out lower, not higher.)"""
    content = encoder.description
    training: Any = encoder.training.get("training", {})
    with seeded(int(training.get("seed", 0)), "weights"):
        network = build_encoder(content.encoder, content.preprocessing.image_size)
    model = SimclrModel(network, nn.Identity()).to(encoder.device)
    return SimclrEncoder(f"{encoder.name}, untrained", model, replace(content, projection=None), encoder.precision)


def _linear(parts: JudgedData) -> Protocol | None:
    """The linear probe on its usual share of the labels, or where that is too few, on all; None where these are."""
    few = Protocol("linear", train_data=parts.train_data)
    for protocol in (few, replace(few, labels_fraction=1.0)):
        if len(chosen_on(some_labelled(parts.pool, protocol.fraction, protocol.seed), protocol.seed)):
            return protocol
    return None


def _words(protocol: Protocol, judged: Judged, parts: JudgedData) -> str:
    share = f"{judged.labelled} of {len(parts.pool)} labelled images"
    share += f" of {parts.train_data!r}" if parts.train_data else ""
    if protocol.name == "knn":
        return f"vote of the {judged.k} nearest among {share}, temperature {protocol.temperature:g}"
    if protocol.name == "linear":
        return (
            f"L2-regularised logistic regression on frozen features of {share}, its strength chosen on "
            f"{judged.held_out} of them"
        )
    if protocol.name == "linear-seed":
        return f"linear layer on the frozen encoder, {share}, augmented, Adam, {SEED_EPOCHS} epochs, batches of 128"
    return f"all weights fine-tuned on {share}, {protocol.epochs} epochs"


# ------------------------------------------------------------------------------------------------- the protocols


def _judge_knn(encoder: ImageEncoder, parts: JudgedData, protocol: Protocol, quiet: bool) -> Judged:
    bank, test = (encode(source, encoder, quiet=quiet) for source in (parts.labelled, parts.test))
    k = default_neighbours(bank.labels) if protocol.k is None else min(protocol.k, len(bank.labels))
    shares = knn_predict(
        test.features, bank.features, bank.labels, parts.num_classes, k=k, temperature=protocol.temperature
    )
    return _judged(shares, test.labels, bank, test, k=k)


def _judge_linear(encoder: ImageEncoder, parts: JudgedData, protocol: Protocol, quiet: bool) -> Judged:
    fitted, test = (encode(source, encoder, quiet=quiet) for source in (parts.labelled, parts.test))
    scale = standardisation(fitted.features)
    held_out = torch.zeros(len(fitted.labels), dtype=torch.bool)
    held_out[torch.from_numpy(chosen_on(fitted.source, protocol.seed))] = True
    chosen = choose_logistic_regression(scale(fitted.features), fitted.labels, parts.num_classes, held_out)
    scores = chosen.probe.scores(scale(test.features))
    return _judged(scores, test.labels, fitted, test, strength=chosen.strength, held_out=int(held_out.sum()))


def _judge_linear_seed(encoder: ImageEncoder, parts: JudgedData, protocol: Protocol, quiet: bool) -> Judged:
    """Deviation from the course: the encoder's BatchNorm keeps the statistics of its training."""
    assert isinstance(encoder, SimclrEncoder)
    test = encode(parts.test, encoder, unit=False, quiet=quiet)
    dataset = image_dataset(parts.labelled, encoder.preprocessing.image_size)
    labelled = _count_readable(dataset)
    generator = make_generator(protocol.seed, "views", device=encoder.device)
    views = (_view_features(encoder, dataset, generator) for _ in range(SEED_EPOCHS))
    order = make_generator(protocol.seed, "linear-seed")
    curve, scores = [], torch.empty(0)
    for probe in train_seed_probe(views, parts.num_classes, order):
        scores = probe.scores(test.features)
        curve.append(accuracy(scores, test.labels))
    skipped = tuple(dict.fromkeys((*dataset.skipped, *test.source.skipped)))
    return Judged(classification_metrics(scores, test.labels), labelled, skipped, curve=tuple(curve))


def _judge_finetune(encoder: ImageEncoder, parts: JudgedData, protocol: Protocol, quiet: bool) -> Judged:
    assert isinstance(encoder, SimclrEncoder)
    size = encoder.preprocessing.image_size
    labelled, test = image_dataset(parts.labelled, size), image_dataset(parts.test, size)
    count = _count_readable(labelled)
    classifier = finetune(encoder, labelled, parts.num_classes, epochs=protocol.epochs, seed=protocol.seed, quiet=quiet)
    scores, labels = predict(classifier, test, encoder)
    skipped = tuple(dict.fromkeys((*labelled.skipped, *test.skipped)))
    return Judged(classification_metrics(scores, labels), count, skipped)


def _count_readable(dataset: ImageDataset) -> int:
    """Images that can be read: a data set that reads its files as needed has not found the broken ones yet."""
    return sum(len(batch["image"]) for batch in batches_of(dataset, 256))


_JUDGES: dict[str, Callable[[ImageEncoder, JudgedData, Protocol, bool], Judged]] = {
    "knn": _judge_knn,
    "linear": _judge_linear,
    "linear-seed": _judge_linear_seed,
    "finetune": _judge_finetune,
}


# --------------------------------------------------------------------------------------------------- features


@dataclass(frozen=True)
class Encoded:
    """The images of a source that can be read, their features float32 (N, D) and their labels int64 (N,)."""

    source: ImageSource
    features: Tensor
    labels: Tensor


def encode(source: ImageSource, encoder: ImageEncoder, *, unit: bool = True, quiet: bool = True) -> Encoded:
    """Features of a labelled source, from the cache; of length one, or as they are, which takes a SimclrEncoder.

    Raises DataError when no image can be read, or when the cache cannot be written.
    """
    features, kept, skipped = [], [], list(source.skipped)
    for start in range(0, len(source), IMAGES_AT_A_TIME):
        rows = np.arange(start, min(start + IMAGES_AT_A_TIME, len(source)))
        piece = replace(source.select(rows), skipped=[])
        try:
            usable, vectors = _vectors(piece, encoder, quiet, unit)
        except NothingReadable as error:
            skipped += error.skipped
            continue
        features.append(vectors)
        kept.append(rows[np.isin(piece.ids, usable.ids)])
        skipped += usable.skipped
    if not kept:
        raise DataError(
            f"{none_of(len(source), 'image')} of {source.name!r} can be read; the first: {skipped[0].reason}"
        )
    whole = replace(source.select(np.concatenate(kept)), skipped=skipped)
    assert whole.labels is not None
    return Encoded(whole, torch.cat(features), torch.from_numpy(whole.labels))


def _vectors(source: ImageSource, encoder: ImageEncoder, quiet: bool, unit: bool) -> tuple[ImageSource, Tensor]:
    if unit:
        return source_vectors(source, encoder, quiet=quiet)
    assert isinstance(encoder, SimclrEncoder)
    usable, vectors = source_features(source, encoder, quiet=quiet)
    return usable, torch.from_numpy(np.array(vectors, dtype=np.float32))


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


def _judged(scores: Tensor, labels: Tensor, labelled: Encoded, test: Encoded, **details: Any) -> Judged:
    skipped = tuple(dict.fromkeys((*labelled.source.skipped, *test.source.skipped)))
    return Judged(classification_metrics(scores, labels), len(labelled.labels), skipped, **details)
