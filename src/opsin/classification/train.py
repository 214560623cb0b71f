"""One classification run from its config to a model directory with measured scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opsin.classification.config import ClassificationConfig
from opsin.classification.evaluation import advice
from opsin.classification.inference import Classifier, build_model
from opsin.classification.task import ClassificationTask, evaluate_dataset
from opsin.data.datasets import ImageDataset, Splits, image_dataset, preprocessing_for
from opsin.data.repeats import split_for_training
from opsin.runtime import seeded
from opsin.training.baselines import compare_accuracy
from opsin.training.metrics import classification_metrics
from opsin.training.record import training_record
from opsin.training.run import FinalScores, TrainReport, measure_model, run_training


@dataclass(frozen=True, kw_only=True)
class ClassSplits(Splits[ImageDataset]):
    """The labelled images of a run."""

    class_names: tuple[str, ...]


def train_classifier(
    config: ClassificationConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport[ClassSplits]:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source, where it has one, is evaluated once, after training. Raises DataError when the data
    cannot be used for this, and what `Trainer.fit` raises.
    """
    splits = open_splits(config)
    held_out = {name: dataset for name, dataset in splits.datasets.items() if name != "train"}
    if "test" in held_out:
        held_out.pop("val", None)  # nothing is added to what the last validation says of it

    def measure(model: Path, metrics: Mapping[str, float]) -> FinalScores:
        classifier = Classifier.from_pretrained(model, config.training.device, config.training.precision)
        hint = advice(config.data)
        return measure_model(classifier, model, held_out, lambda dataset, name: _score(classifier, dataset, name, hint))

    task = build_task(config, splits)
    return run_training(config, directory, task, splits, measure, resume=resume, quiet=quiet)


def open_splits(config: ClassificationConfig) -> ClassSplits:
    """Open the data of a run. Raises DataError when it has no labels or nothing to train on."""
    run = split_for_training(config)
    datasets = {name: image_dataset(images, config.image_size) for name, images in run.splits.items()}
    return ClassSplits(datasets=datasets, source_digest=run.digest, class_names=run.source.class_names or ())


def build_task(config: ClassificationConfig, splits: ClassSplits) -> ClassificationTask:
    """The task of a run, with a model initialized from the run's seed."""
    preprocessing = preprocessing_for(splits.train, config.image_size)
    record = training_record(config, splits.source_digest)
    with seeded(config.seed, "weights"):
        model = build_model(config.model, config.image_size, len(splits.class_names))
    return ClassificationTask(
        model, config.model, config.augment, splits.class_names, preprocessing, splits.val, record
    )


def _score(classifier: Classifier, dataset: ImageDataset, name: str, hint: str) -> FinalScores:
    measured = classification_metrics(*evaluate_dataset(classifier, dataset))
    scores = {"accuracy": measured.accuracy, "top5_accuracy": measured.top5_accuracy, "loss": measured.loss}
    baseline = compare_accuracy(measured.accuracy, measured.labels, measured.num_classes, hint)
    return FinalScores({f"{name}_{metric}": value for metric, value in scores.items()}, (baseline,))
