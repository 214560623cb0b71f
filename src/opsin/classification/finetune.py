"""Fine-tuning a pretrained encoder on people's own images: a head on what it gives, fitted in seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opsin.classification.config import FinetuneConfig
from opsin.classification.data import ClassSplits
from opsin.classification.descriptors import descriptor_blocks, source_descriptors
from opsin.classification.evaluation import final_scores
from opsin.classification.finetuned import FinetunedClassifier, FinetunedContent
from opsin.classification.heads import Head, fit_head
from opsin.config import to_dict
from opsin.data.datasets import FileDataset
from opsin.data.repeats import warn_of_repeats
from opsin.domain import MOST_IMAGES, SIDE, Watch
from opsin.encoders import load
from opsin.encoders.base import NetworkEncoder
from opsin.encoders.loading import absolute_reference
from opsin.files import write_json
from opsin.images.opening import Skipped
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.sources.image_source import ImageSource
from opsin.training.baselines import BaselineComparison
from opsin.training.metrics import classification_metrics
from opsin.training.run import TrainReport
from opsin.training.run_directory import RunDirectory
from opsin.training.state import domain_of


@dataclass
class Described:
    """Images of a split as descriptors float32 (N, F), with labels int64 (N,)."""

    source: ImageSource
    descriptors: Tensor
    labels: Tensor
    skipped: list[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"descriptor": self.descriptors[indices], "label": self.labels[indices]}


def train_finetuned(
    config: FinetuneConfig, directory: str | Path, *, resume: bool = False, progress: Progress | None = None
) -> TrainReport[ClassSplits]:
    """Fit a head as `config` says, and write it into the run directory as a model.

    Nothing but the descriptors of images takes long, and these are in the cache: a run that was stopped is simply made
    again with `resume`. Raises DataError when the data cannot be used for this, ConfigError when the directory is in
    use, what `opsin.encoders.load` raises, and Cancelled.
    """
    started = time.monotonic()
    splits = config.split()
    warn_of_repeats(splits)
    encoder = load(config.backbone, config.training.device, config.training.precision)
    run = RunDirectory(directory)
    with run.locked(resume=resume):
        run.record(to_dict(config))
        described = {name: describe(images, encoder, progress) for name, images in splits.splits.items()}
        train = described["train"]
        class_names = splits.source.class_names or ()
        head = fit_head(
            train.descriptors,
            train.labels,
            len(class_names),
            descriptor_blocks(encoder, train.descriptors.shape[1]),
            groups=train.source.groups,
            balanced=config.balance,
            seed=config.seed,
            progress=progress,
        )
        classifier = _classifier(config, encoder, head, class_names, splits.digest)
        metrics, baselines = _measure(classifier, head, described, config)
        classifier.add_metrics(metrics)
        classifier.watch = Watch(domain_of(FileDataset(_some(train.source), SIDE)))
        classifier.save_pretrained(run.model)
        choice = f"regularization {head.strength:.1g}, by the cross-entropy of cross-validation"
        write_json(run.weights, {"weights": "fitted", "step": 0, "choice": choice})
    return TrainReport(
        model=run.model,
        metrics=metrics,
        choice=choice,
        steps=0,
        seconds=time.monotonic() - started,
        splits=ClassSplits(
            datasets=described, source=splits, class_names=class_names, needs=classifier.content.backbone
        ),
        baselines=baselines,
    )


def describe(source: ImageSource, encoder: NetworkEncoder, progress: Progress | None = None) -> Described:
    """The readable images of a labelled source as an encoder describes them."""
    usable, descriptors = source_descriptors(source, encoder, progress=progress)
    assert usable.labels is not None
    return Described(usable, descriptors, torch.from_numpy(usable.labels), usable.skipped)


def _classifier(
    config: FinetuneConfig, encoder: NetworkEncoder, head: Head, class_names: tuple[str, ...], digest: str
) -> FinetunedClassifier:
    content = FinetunedContent(
        backbone=absolute_reference(config.backbone),
        backbone_fingerprint=encoder.fingerprint,
        width=head.probe.weight.shape[1],
        class_names=class_names,
        run=RunRecord(config=config, source_digest=digest),
    )
    network = FinetunedClassifier.build(content)
    network.load_state_dict({"weight": head.probe.weight, "bias": head.probe.bias})
    classifier = FinetunedClassifier(network.to(encoder.device), content, precision=config.training.precision)
    classifier.encoder = encoder
    return classifier


def _measure(
    classifier: FinetunedClassifier, head: Head, described: dict[str, Described], config: FinetuneConfig
) -> tuple[dict[str, float], tuple[BaselineComparison, ...]]:
    """The scores of cross-validation and of the images that were held out, and the baselines of the latter."""
    metrics = {"cv_accuracy": head.accuracy, "cv_loss": head.loss}
    baselines: tuple[BaselineComparison, ...] = ()
    for name in ("val", "test"):
        if name in described:
            held_out = described[name]
            measured = classification_metrics(classifier.head_scores(held_out.descriptors), held_out.labels)
            final = final_scores(measured, name, config.data)
            metrics |= final.metrics
            baselines = final.baselines
    return metrics, baselines


def _some(source: ImageSource) -> ImageSource:
    """At most `MOST_IMAGES` of the images, evenly spread."""
    count = min(len(source), MOST_IMAGES)
    return source.select(np.unique(np.linspace(0, len(source) - 1, count).round().astype(np.int64)))
