"""Fine-tuning a pretrained encoder on people's own images: a head on what it gives, fitted in seconds, or its last
stage or all of it, trained from such a head on ("Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", Kumar et al. 2022) with smaller steps for earlier stages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from opsin.classification.config import FinetuneConfig
from opsin.classification.data import ClassSplits
from opsin.classification.descriptors import descriptor_blocks, source_descriptors
from opsin.classification.evaluation import final_scores, measure_run
from opsin.classification.finetuned import TUNED_BATCH, FinetunedClassifier, FinetunedContent, FinetunedNetwork
from opsin.classification.heads import Head, class_weights, fit_head
from opsin.classification.train import ClassificationTask
from opsin.config import to_dict
from opsin.data.datasets import FileDataset, ImageDataset, batches_of, image_dataset
from opsin.data.repeats import warn_of_repeats
from opsin.domain import SIDE, Watch
from opsin.encoders import load
from opsin.encoders.base import DenseNetworkEncoder, NetworkEncoder
from opsin.encoders.loading import absolute_reference, network_outline
from opsin.files import write_json
from opsin.images.opening import Skipped
from opsin.pretrained import RunRecord
from opsin.progress import Progress
from opsin.runtime import autocast
from opsin.sources.image_source import ImageSource
from opsin.training.baselines import BaselineComparison
from opsin.training.metrics import classification_metrics
from opsin.training.run import TrainReport, run_training
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
    """Train as `config` says, into the run directory, or go on with the run that is there.

    Of a head, nothing but the descriptors of images takes long, and these are in the cache: a run that was stopped is
    simply made again with `resume`. Raises DataError when the data cannot be used for this, ConfigError when the
    directory is in use, what `opsin.encoders.load` and `Trainer.fit` raise, and Cancelled.
    """
    started = time.monotonic()
    splits = config.split()
    encoder = load(config.backbone, config.training.device, config.training.precision)
    if config.tune != "head":
        datasets = {name: image_dataset(images, config.image_size) for name, images in splits.splits.items()}
        own = ClassSplits(datasets=datasets, source=splits, class_names=splits.source.class_names or ())
        task = FinetuneTask(config, own, encoder)
        return run_training(config, directory, task, own, measure_run, resume=resume, progress=progress)
    warn_of_repeats(splits)
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
        classifier.watch = Watch(domain_of(FileDataset(train.source, SIDE)))
        classifier.save_pretrained(run.model)
        needs = None if config.self_contained else classifier.content.backbone
        choice = f"regularization {head.strength:.1g}, by the cross-entropy of cross-validation"
        write_json(run.weights, {"weights": "fitted", "step": 0, "choice": choice})
    return TrainReport(
        model=run.model,
        metrics=metrics,
        choice=choice,
        steps=0,
        seconds=time.monotonic() - started,
        splits=ClassSplits(datasets=described, source=splits, class_names=class_names, needs=needs),
        baselines=baselines,
    )


class FinetuneTask(ClassificationTask):
    """Cross-entropy of a head and the last stage or all of its encoder."""

    def __init__(self, config: FinetuneConfig, splits: ClassSplits, encoder: NetworkEncoder) -> None:
        """With the encoder's weights and a head that is fitted to its vectors of the training images.

        Raises ConfigError for an encoder whose network cannot be trained here.
        """
        backbone = network_outline(config.backbone)
        backbone.load_state_dict(encoder.network.state_dict())
        preprocessing = replace(cast(DenseNetworkEncoder, encoder).preprocessing, image_size=config.image_size)
        self.classifier_content = FinetunedContent(
            backbone=absolute_reference(config.backbone),
            backbone_fingerprint=encoder.fingerprint,
            width=int(cast(Any, backbone).num_features),
            class_names=splits.class_names,
            preprocessing=preprocessing,
        )
        model = FinetunedNetwork(self.classifier_content.width, len(splits.class_names), backbone).to(encoder.device)
        super().__init__(config, splits, model, preprocessing)
        if config.balance:
            labels = torch.cat([batch["label"] for batch in batches_of(splits.train, TUNED_BATCH)])
            self.class_weights = class_weights(labels, len(splits.class_names)).float()
        self._fit_head(splits.train, encoder.device)
        # Its own classifier is no part of what makes vectors.
        stages = stages_of(name for name, _ in backbone.named_parameters() if not name.startswith("classifier."))
        self.stages = {f"model.backbone.{name}": stage for name, stage in stages.items()}
        self.layer_decay = config.layer_decay
        last = max((stage for name, stage in stages.items() if any(part.isdecimal() for part in name.split("."))))
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in stages and (config.tune == "all" or stages[name] >= last))

    def _fit_head(self, train: ImageDataset, device: torch.device) -> None:
        """Begin with the head that suits the vectors of the pretrained encoder."""
        network = self.model.to(device).eval()
        vectors, labels = [], []
        with torch.no_grad(), autocast(device, self.config.training.precision):
            for batch in batches_of(train, TUNED_BATCH):
                images = self.preprocessing.prepare(batch["image"].to(device))
                vectors.append(network.pooled(images).float().cpu())
                labels.append(batch["label"].cpu())
        choices = (((self.classifier_content.width, 1.0),),)
        head = fit_head(
            torch.cat(vectors),
            torch.cat(labels),
            len(self.class_names),
            choices,
            balanced=self.class_weights is not None,
            seed=self.config.seed,
        )
        network.head.load_state_dict({"weight": head.probe.weight, "bias": head.probe.bias})

    def learning_rate_scale(self, name: str) -> float:
        """One for the head, and a power of the decay for each stage before it."""
        if name not in self.stages:
            return 1.0
        return self.layer_decay ** (1 + max(self.stages.values()) - self.stages[name])

    def foundations(self) -> dict[str, str]:
        return {"backbone": self.classifier_content.backbone_fingerprint, **super().foundations()}

    def classifier(self, metrics: Mapping[str, float] | None = None) -> FinetunedClassifier:
        """The model in its present state, ready for use."""
        content = replace(self.classifier_content, metrics=dict(metrics or {}), run=self.run)
        return FinetunedClassifier(self.model, content, precision=self.config.training.precision)


def stages_of(names: Iterable[str]) -> dict[str, int]:
    """The stage of each parameter of a network, counted from its input: parameters whose names agree up to the first
    number (`blocks.3`), or in their first part (`conv_stem`), are of one stage; names come in the network's order."""
    stages: dict[str, int] = {}
    prefixes: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        number = next((place for place, part in enumerate(parts) if part.isdecimal()), 0)
        stages[name] = prefixes.setdefault(".".join(parts[: number + 1]), len(prefixes))
    return stages


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
        self_contained=config.self_contained,
        run=RunRecord(config=config, source_digest=digest),
    )
    network = FinetunedClassifier.build(content)
    network.head.load_state_dict({"weight": head.probe.weight, "bias": head.probe.bias})
    if network.backbone is not None:
        network.backbone.load_state_dict(encoder.network.state_dict())
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
