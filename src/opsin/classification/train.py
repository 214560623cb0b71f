"""One classification run from its config to a model directory with measured scores."""

from __future__ import annotations

from pathlib import Path

from opsin.classification.config import ClassificationConfig
from opsin.classification.data import rows_of_run
from opsin.classification.evaluation import ADVICE
from opsin.classification.inference import Classifier, build_model
from opsin.classification.task import ClassificationTask, evaluate_dataset
from opsin.config import to_dict
from opsin.data.datasets import ImageDataset, image_dataset, preprocessing_for
from opsin.data.repeats import warn_of_repeats
from opsin.data.splits import division_digest
from opsin.runtime import seeded
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled
from opsin.training.baselines import BaselineComparison, compare_accuracy
from opsin.training.config import TrainingConfig
from opsin.training.metrics import classification_metrics
from opsin.training.record import training_record
from opsin.training.report import TrainReport
from opsin.training.trainer import Trainer


def train_classifier(
    config: ClassificationConfig, directory: str | Path, *, resume: bool = False, quiet: bool = False
) -> TrainReport:
    """Train as `config` says into the run directory, or go on with the run that is there.

    The test split of the source, where it has one, is looked at once, after training. Raises DataError when the data
    cannot be used for this, and what `Trainer.fit` raises.
    """
    source = open_labelled(config.data, exclude=config.exclude)
    rows = rows_of_run(source, val_fraction=config.val_fraction, max_train=config.max_train, seed=config.training.seed)
    warn_of_repeats(source, rows)
    train_data = image_dataset(source.select(rows["train"]), config.image_size)
    validation = image_dataset(source.select(rows["val"]), config.image_size) if len(rows["val"]) else None

    task = build_task(config, source, train_data, validation)
    trainer = Trainer(config.training, directory, quiet=quiet)
    result = trainer.fit(task, train_data, to_dict(config), resume=resume)
    metrics = dict(result.metrics)
    skipped = [*train_data.skipped, *(validation.skipped if validation else [])]
    if trainer.fabric.is_global_zero and len(rows["test"]):
        test_data = image_dataset(source.select(rows["test"]), config.image_size)
        metrics |= _add_test_metrics(trainer.run.model, test_data, config.training)
        skipped += test_data.skipped
    baselines: tuple[BaselineComparison, ...] = ()
    part = "test" if len(rows["test"]) else "val"
    if f"{part}_accuracy" in metrics and source.labels is not None:
        labels = source.labels[rows[part]]
        baselines = (compare_accuracy(metrics[f"{part}_accuracy"], labels, len(source.class_names or ()), ADVICE),)
    return TrainReport(
        model=trainer.run.model,
        metrics=metrics,
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        num_train=len(train_data),
        skipped=tuple(dict.fromkeys(skipped)),
        baselines=baselines,
    )


def build_task(
    config: ClassificationConfig,
    source: ImageSource,
    train_data: ImageDataset,
    validation: ImageDataset | None,
) -> ClassificationTask:
    """The task of a run, with a model initialised from the run's seed."""
    assert source.class_names is not None
    preprocessing = preprocessing_for(train_data, config.image_size)
    record = training_record(config, division_digest(source))
    with seeded(config.training.seed, "weights"):
        model = build_model(config.model, config.image_size, len(source.class_names))
    return ClassificationTask(
        model, config.model, config.augment, source.class_names, preprocessing, validation, record
    )


def _add_test_metrics(model_directory: Path, test_data: ImageDataset, training: TrainingConfig) -> dict[str, float]:
    """Measure the exported model on the test split and write the result into its directory."""
    classifier = Classifier.from_pretrained(model_directory, training.device, training.precision)
    measured = classification_metrics(*evaluate_dataset(classifier, test_data))
    added = {
        "test_accuracy": measured.accuracy,
        "test_top5_accuracy": measured.top5_accuracy,
        "test_loss": measured.loss,
    }
    classifier.metrics |= added
    classifier.save_pretrained(model_directory)
    return added
