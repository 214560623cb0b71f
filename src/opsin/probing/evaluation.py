"""Evaluate an encoder by the labels of images, beside a randomly initialized copy of its network.

Dimensions: N images, D width of the features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from opsin.counts import number_of
from opsin.data.repeats import Overlap, find_overlap
from opsin.encoders.base import ImageEncoder
from opsin.images.opening import Skipped
from opsin.pictures import LARGEST_PICTURE
from opsin.probing.evaluation_set import (
    Encoded,
    EvaluationSet,
    encode,
    open_evaluation_set,
    refuse_too_few,
    rows_to_choose_on,
    some_labelled,
)
from opsin.probing.knn import TEMPERATURE, default_neighbours, knn_predict, nearest_neighbours
from opsin.probing.linear_probe import choose_logistic_regression, standardisation
from opsin.probing.pictures import embedding_figure, neighbours_figure
from opsin.progress import Progress
from opsin.results import Table, baseline_rows, skipped_document
from opsin.training.baselines import UNTRAINED, BaselineComparison, compare_accuracy, compare_paired
from opsin.training.metrics import ClassificationMetrics, classification_metrics

ADVICE = "train the encoder longer (--max-minutes) or on more images, or take a pretrained one (imagenet, timm:NAME)"
SHOWN, NEIGHBOURS = 8, 7
"""Test images of a figure of nearest neighbors, and neighbors of each."""
MOST_POINTS = 2000
"""Images on a map of features."""


@runtime_checkable
class HasUntrained(Protocol):
    """An encoder that can make the network that its training began with."""

    def untrained(self) -> ImageEncoder:
        """The same network with its initial random weights."""
        ...


@dataclass(frozen=True)
class ProbeResult:
    """Scores of one encoder on the evaluation images; `metrics.loss` means nothing for the votes of neighbors.

    `labelled` images had labels. `k` neighbors voted, fewer than asked for where there are fewer. `strength` is the
    regularization strength that a linear probe chose on `held_out` of the labelled images; `curve` has the accuracy
    after each epoch of a probe that is trained by gradient descent.
    """

    metrics: ClassificationMetrics
    labelled: int
    skipped: tuple[Skipped, ...]
    k: int | None = None
    strength: float | None = None
    held_out: int | None = None
    curve: tuple[float, ...] = ()

    def document(self) -> dict[str, Any]:
        """The scores as JSON types, without what the protocol has not."""
        scores: dict[str, Any] = {"accuracy": self.metrics.accuracy, "top5_accuracy": self.metrics.top5_accuracy}
        details = {"k": self.k, "strength": self.strength, "held_out": self.held_out, "curve": self.curve}
        return {**scores, "labelled": self.labelled, **{key: value for key, value in details.items() if value}}


@dataclass(frozen=True, kw_only=True)
class ProbeProtocol:
    """How to evaluate an encoder. A kind of protocol says how it scores one, in words as well, and what it draws."""

    name: ClassVar[str]
    default_fraction: ClassVar[float | None] = None
    labels_fraction: float | None = None
    """The fraction of the labels that is used; `default_fraction` without it, or what `enough_labels` gives."""
    seed: int = 0
    exclude: tuple[str, ...] = ()
    """Patterns of images to leave out; see `opsin.sources.exclusion`."""
    train_data: str | None = None
    """A source of its own that labels come from; see `open_evaluation_set`."""

    @property
    def fraction(self) -> float | None:
        """The fraction of the labels that is used; None where it follows their number."""
        return self.default_fraction if self.labels_fraction is None else self.labels_fraction

    def open(self, encoder: ImageEncoder, data: str | None, split: str | None) -> EvaluationSet:
        """The images that the encoder is evaluated on; see `open_evaluation_set`. Raises what that raises, and where
        the protocol cannot work with these images or this encoder, DataError or ConfigError."""
        return open_evaluation_set(encoder, data, split, self.fraction, self.seed, self.exclude, self.train_data)

    def score(self, encoder: ImageEncoder, images: EvaluationSet, *, progress: Progress | None = None) -> ProbeResult:
        """Fit to the labelled images and predict the evaluation images."""
        raise NotImplementedError

    def words(self, result: ProbeResult, share: str) -> str:
        """What was done, `share` being which labels were used."""
        raise NotImplementedError

    def figure(self, encoder: ImageEncoder, evaluation: Evaluation) -> Figure:
        """A plot that belongs to the scores; features are those that the evaluation left in the cache."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Knn(ProbeProtocol):
    """The vote of the `k` nearest labelled images; without `k`, of as many as `default_neighbours` gives."""

    name = "knn"
    default_fraction = 1.0
    k: int | None = None
    temperature: float = TEMPERATURE

    def score(self, encoder: ImageEncoder, images: EvaluationSet, *, progress: Progress | None = None) -> ProbeResult:
        bank, test = (encode(source, encoder, progress=progress) for source in (images.labelled, images.test))
        k = default_neighbours(bank.labels) if self.k is None else min(self.k, len(bank.labels))
        shares = knn_predict(
            test.features, bank.features, bank.labels, images.num_classes, k=k, temperature=self.temperature
        )
        return _result(shares, bank, test, k=k)

    def words(self, result: ProbeResult, share: str) -> str:
        return f"vote of the {result.k} nearest among {share}, temperature {self.temperature:g}"

    def figure(self, encoder: ImageEncoder, evaluation: Evaluation) -> Figure:
        """Evaluation images, evenly spread over the split, each with its nearest neighbors."""
        images = self.open(encoder, evaluation.data, evaluation.split)
        bank, test = (encode(source, encoder) for source in (images.labelled, images.test))
        some = _spread(len(test.labels), SHOWN)
        cosines, nearest = nearest_neighbours(test.features[some], bank.features, min(NEIGHBOURS, len(bank.labels)))
        names = [images.class_names[label] for label in test.labels[some]]
        their_names = [[images.class_names[bank.labels[row]] for row in rows] for rows in nearest]
        return neighbours_figure(
            [test.source.load(int(row), LARGEST_PICTURE) for row in some],
            [[bank.source.load(int(row), LARGEST_PICTURE) for row in rows] for rows in nearest],
            cosines.numpy(),
            (names, their_names),
        )


@dataclass(frozen=True, kw_only=True)
class Linear(ProbeProtocol):
    """L2-regularized logistic regression on standardized features, its strength chosen on some of the labels."""

    name = "linear"

    def open(self, encoder: ImageEncoder, data: str | None, split: str | None) -> EvaluationSet:
        images = super().open(encoder, data, split)
        refuse_too_few(images, self.seed)
        return images

    def score(self, encoder: ImageEncoder, images: EvaluationSet, *, progress: Progress | None = None) -> ProbeResult:
        fitted, test = (encode(source, encoder, progress=progress) for source in (images.labelled, images.test))
        scale = standardisation(fitted.features)
        held_out = torch.zeros(len(fitted.labels), dtype=torch.bool)
        held_out[torch.from_numpy(rows_to_choose_on(fitted.source, self.seed))] = True
        chosen = choose_logistic_regression(scale(fitted.features), fitted.labels, images.num_classes, held_out)
        scores = chosen.probe.scores(scale(test.features))
        return _result(scores, fitted, test, strength=chosen.strength, held_out=int(held_out.sum()))

    def words(self, result: ProbeResult, share: str) -> str:
        return (
            f"L2-regularised logistic regression on frozen features of {share}, its strength chosen on "
            f"{result.held_out} of them"
        )

    def figure(self, encoder: ImageEncoder, evaluation: Evaluation) -> Figure:
        """A map of the evaluation images, colored by class."""
        images = self.open(encoder, evaluation.data, evaluation.split)
        test = encode(images.test, encoder)
        some = _spread(len(test.labels), MOST_POINTS)
        return embedding_figure(test.features[some], test.labels[some].numpy(), images.class_names)


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
    other: ProbeProtocol | None
    class_names: tuple[str, ...]
    trained: ProbeResult
    untrained: ProbeResult | None
    overlap: Overlap
    encoder: ImageEncoder
    made_by: ProbeProtocol

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""
        return self.trained.skipped

    @property
    def warnings(self) -> list[str]:
        """What the test images have in common with those whose labels were used."""
        return self.overlap.warnings

    def document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        return {
            "protocol": self.protocol,
            "name": self.made_by.name,
            "data": self.data,
            "train_data": self.made_by.train_data,
            "split": self.split,
            "labels_fraction": self.trained.labelled / self.labels,
            "count": self.trained.metrics.count,
            **self.trained.document(),
            "untrained": None if self.untrained is None else self.untrained.document(),
            "baselines": [comparison.document() for comparison in self.baselines],
            **self.trained.metrics.class_document(self.class_names),
            **self.overlap.document(),
            "skipped": skipped_document(self.skipped),
        }

    def tables(self) -> list[Table]:
        """The scores of the encoder beside those of its untrained twin."""
        results = [result for result in (self.trained, self.untrained) if result is not None]
        columns = [dict(result.metrics.rows()) for result in results]
        rows: list[tuple[str, list[Any]]] = [(name, [column[name] for column in columns]) for name in columns[0]]
        if self.trained.strength is not None:
            rows.append(("chosen strength of the regularisation", [result.strength for result in results]))
        if self.trained.curve:
            best = [max(result.curve) for result in results]
            rows.append(("best accuracy after any epoch, as the course reports it", best))
        guessing = [comparison for comparison in self.baselines if comparison.baseline != UNTRAINED]
        rows += [(name, [value] * len(results)) for name, value in baseline_rows(guessing)]
        header = ("metric", "this encoder", "the same untrained")[: 1 + len(results)]
        return [Table(header, [(name, *values) for name, values in rows], self.protocol)]

    def figure(self) -> Figure:
        """What belongs to the protocol; see `ProbeProtocol.figure`."""
        return self.made_by.figure(self.encoder, self)

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """The accuracy beside always guessing the largest class, and beside that of the untrained network."""
        metrics = self.trained.metrics
        largest = compare_accuracy(metrics.accuracy, metrics.labels, ADVICE)
        if self.untrained is None:
            return largest
        right, by_twin = (scores.predicted == scores.labels for scores in (metrics, self.untrained.metrics))
        return *largest, *compare_paired("accuracy", right, UNTRAINED, by_twin, ADVICE)


def evaluate_encoder(
    encoder: ImageEncoder,
    protocol: ProbeProtocol,
    data: str | None = None,
    split: str | None = None,
    *,
    near_duplicates: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate on a split of a source, by default the one that the encoder was trained on; see `open_evaluation_set`.

    With `near_duplicates`, test images are also compared with the labelled ones by what they look like.

    Raises ConfigError for settings that cannot be and for an encoder that the protocol is not for, DataError for a
    source that has no labels, one class only, no such split, or too few labels.
    """
    images = protocol.open(encoder, data, split)
    trained = protocol.score(encoder, images, progress=progress)
    untrained = None
    if isinstance(encoder, HasUntrained):
        untrained = protocol.score(encoder.untrained(), images, progress=progress)
    share = f"{trained.labelled} of {len(images.pool)} labelled images"
    share += f" of {images.train_data!r}" if images.train_data else ""
    where = f"{number_of(trained.metrics.count, 'image')} of {images.data!r}, split {images.split!r}"
    words = f"{where}: {protocol.words(trained, share)}"
    if images.seen:
        words += "; the encoder may have been trained on these images"
    return Evaluation(
        data=images.data,
        split=images.split,
        protocol=words,
        labels=len(images.pool),
        other=Knn(train_data=images.train_data) if isinstance(protocol, Linear) else _linear(images),
        class_names=images.class_names,
        trained=trained,
        untrained=untrained,
        overlap=find_overlap(images.test, images.labelled, images.split, near=near_duplicates),
        encoder=encoder,
        made_by=protocol,
    )


def _linear(images: EvaluationSet) -> Linear | None:
    """The linear probe, where the labels are enough for one."""
    protocol = Linear(train_data=images.train_data)
    labelled = some_labelled(images.pool, protocol.fraction, protocol.seed)
    return protocol if len(rows_to_choose_on(labelled, protocol.seed)) else None


def _result(scores: Tensor, labelled: Encoded, test: Encoded, **details: Any) -> ProbeResult:
    skipped = tuple(dict.fromkeys((*labelled.source.skipped, *test.source.skipped)))
    return ProbeResult(classification_metrics(scores, test.labels), len(labelled.labels), skipped, **details)


def _spread(count: int, most: int) -> Tensor:
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64)))
