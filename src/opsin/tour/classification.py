"""The tour's section on classification: a Vision Transformer learns the groups of the emoji."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from opsin.classification.inference import Classifier
from opsin.classification.pictures import attention_grid, predictions_figure
from opsin.classification.recipes import emoji_groups
from opsin.classification.train import train_classifier
from opsin.data.datasets import image_dataset
from opsin.pictures import confusion_figure
from opsin.progress import Progress
from opsin.report import MEASURED, REPEAT, Picture, Section, Table, spread
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled
from opsin.training.curves import learning_curves
from opsin.training.metrics import ClassificationMetrics, classification_metrics


def classification_section(directory: Path, minutes: float, progress: Progress | None) -> Section:
    """Train by time budget, then show curves, confusions, right and wrong predictions, and attention."""
    shutil.rmtree(directory, ignore_errors=True)
    recipe = emoji_groups()
    training = dataclasses.replace(recipe.training, epochs=None, max_steps=None, max_minutes=minutes)
    config = dataclasses.replace(recipe, training=training)
    report = train_classifier(config, directory, progress=progress)

    classifier = Classifier.from_pretrained(report.model)
    source = open_labelled(config.data)
    test = source.split("test")
    scores, labels = classifier.predict_dataset(image_dataset(test, config.image_size))
    metrics = classification_metrics(scores, labels)
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    most_common = float(np.bincount(labels.numpy()).max() / len(labels))
    shown = f"{metrics.count} pictures of emoji never trained on, two styles"
    network = f"Vision Transformer on {config.image_size} x {config.image_size} pixels, recipe emoji-groups"
    rows = [
        ("accuracy on test emoji", f"{metrics.accuracy:.1%}", shown),
        ("always guessing the largest group", f"{most_common:.1%}", "the score to beat"),
        ("training", f"{report.seconds / 60:.1f} minutes", f"{report.steps} steps, {report.num_train} pictures"),
        ("network", f"{parameters / 1e6:.2f} M parameters", network),
    ]
    return Section(
        title="Image classification",
        introduction=(
            "A Vision Transformer learned from scratch to tell the Unicode groups of emoji apart. The two drawings of "
            "an emoji are never on both sides of the split, so it must generalise to things it has not seen."
        ),
        table_title=MEASURED,
        table=Table(("what", "result", "how"), rows),
        pictures=_pictures(directory, classifier, test, metrics, scores.argmax(dim=1).numpy()),
        commands_title=REPEAT,
        commands=[
            f"opsin train vit --recipe emoji-groups --max-minutes {minutes:g} --out runs/emoji",
            "opsin evaluate runs/emoji",
            "opsin classify PICTURES --model runs/emoji --attention pictures/",
        ],
        limits=(
            "A few minutes of training with one seed: expect a few points of difference between runs and machines. "
            "Groups are Unicode's, and some are a matter of taste: a heart is a smiley, a chess pawn an activity."
        ),
    )


def _pictures(
    directory: Path,
    classifier: Classifier,
    test: ImageSource,
    metrics: ClassificationMetrics,
    predicted: np.ndarray,
) -> list[Picture]:
    assert test.labels is not None and test.class_names is not None
    right = spread(np.flatnonzero(predicted == test.labels), 6)
    wrong = spread(np.flatnonzero(predicted != test.labels), 6)
    shown = [*right, *wrong]
    images = [test.load(row) for row in shown]
    results = classifier.classify(images, top_k=2)
    truths = [test.class_names[test.labels[row]] for row in shown]
    looked = images[: len(right)]
    return [
        Picture(
            learning_curves(directory / "metrics.jsonl", "accuracy", "accuracy"),
            "Learning curves over the run.",
        ),
        Picture(
            confusion_figure(metrics.confusion, classifier.class_names),
            "Which groups are taken for which: rows are the true group, columns the predicted one.",
        ),
        Picture(
            predictions_figure(images, results, truths),
            "Right (blue) and wrong (orange) predictions on test emoji.",
        ),
        Picture(
            attention_grid(looked, classifier.attention_maps(looked)),
            "Where the model looked: attention rollout over all layers; bright patches count more in the decision.",
        ),
    ]
