"""The tour's section on learning without labels: a ResNet learns by telling views of emoji apart."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from opsin.data.pixels import fit_image
from opsin.probing.evaluation import Evaluation, Knn, evaluate_encoder
from opsin.progress import Progress
from opsin.report import MEASURED, REPEAT, Picture, Section, Table
from opsin.runtime import make_generator
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import two_views
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.recipes import emoji_simclr
from opsin.simclr.train import train_simclr
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_source
from opsin.training.curves import learning_curves
from opsin.training.run import TrainReport

SHOWN = 8


def simclr_section(directory: Path, minutes: float, progress: Progress | None) -> Section:
    """Train by time budget, then show the views, the curve of the neighbours' accuracy, and neighbours themselves."""
    shutil.rmtree(directory, ignore_errors=True)
    recipe = emoji_simclr()
    training = dataclasses.replace(recipe.training, epochs=None, max_steps=None, max_minutes=minutes)
    config = dataclasses.replace(recipe, training=training)
    source = open_source(config.data)
    report = train_simclr(config, directory, progress=progress)
    encoder = SimclrEncoder.from_pretrained(report.model)
    protocol = Knn()
    evaluation = evaluate_encoder(encoder, protocol, progress=progress)
    return Section(
        title="Learning without labels",
        introduction=(
            "A ResNet-18 looked at two views of every emoji, cut out, mirrored and recoloured at random, and learned "
            "to give alike features to views of the same picture. No group and no name was shown to it. The features "
            "are evaluated afterwards: the other pictures that are nearest to a test picture vote for its group."
        ),
        table_title=MEASURED,
        table=Table(("what", "result", "how"), _rows(report, encoder, evaluation)),
        pictures=[
            Picture(
                _views_figure(source, config), "What the network is shown: pictures above, two views of each below."
            ),
            Picture(
                learning_curves(directory / "metrics.jsonl", "knn_accuracy", "accuracy of the neighbours' vote"),
                "The contrastive loss, and how often the nearest training pictures tell the group of a held-out one.",
            ),
            Picture(
                protocol.figure(encoder, evaluation),
                "Test emoji on the left, evenly spread over all of them, each with the other pictures of the nearest "
                "features, their cosines and their groups; those of another group are orange.",
            ),
        ],
        commands_title=REPEAT,
        commands=[
            f"opsin train simclr --recipe emoji-simclr --max-minutes {minutes:g} --out runs/simclr",
            "opsin evaluate runs/simclr --protocol knn",
            "opsin index PICTURES --out pictures.index --model runs/simclr",
        ],
        limits=(
            "A short training with one seed: contrastive learning wants hours, and what a network gives before any "
            "training is not far behind yet. Groups are Unicode's; pictures of one group need not look alike."
        ),
    )


def _rows(report: TrainReport[Any], encoder: SimclrEncoder, evaluation: Evaluation) -> list[tuple[str, str, str]]:
    metrics, untrained = evaluation.trained.metrics, evaluation.untrained
    assert untrained is not None
    largest = metrics.confusion.sum(axis=1).max() / metrics.count
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    size = encoder.preprocessing.image_size
    return [
        ("group of test emoji", f"{metrics.accuracy:.1%}", evaluation.protocol),
        ("the same network untrained", f"{untrained.metrics.accuracy:.1%}", "the same vote"),
        ("always guessing the largest group", f"{largest:.1%}", "the score to beat"),
        ("training", f"{report.seconds / 60:.1f} minutes", f"{report.steps} steps, {report.num_train} pictures"),
        ("network", f"{parameters / 1e6:.2f} M parameters", f"{size} x {size} pixels, recipe emoji-simclr"),
    ]


def _views_figure(source: ImageSource, config: SimclrConfig) -> Figure:
    rows = np.linspace(0, len(source) - 1, SHOWN).astype(int)
    pixels = torch.from_numpy(np.stack([fit_image(source.load(row), config.image_size) for row in rows]))
    images = pixels.float() / 255
    views = two_views(images, config.view_size, config.augment, make_generator(config.training.seed, "shown"))
    figure = Figure(figsize=(1.1 * SHOWN, 3.4), layout="constrained", dpi=110)
    for line, shown in zip(figure.subplots(3, SHOWN), (images, *views.chunk(2)), strict=True):
        for axes, image in zip(line, shown, strict=True):
            axes.imshow(image.permute(1, 2, 0).numpy())
            axes.axis("off")
    return figure
