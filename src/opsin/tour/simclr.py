"""The tour's section on learning without labels: a ResNet learns by telling views of emoji apart."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from opsin.data.image_source import ImageSource
from opsin.data.pixels import fit_image
from opsin.data.sources import open_source
from opsin.runtime import make_generator
from opsin.simclr.config import SimclrConfig
from opsin.simclr.data import rows_of_run
from opsin.simclr.evaluation import untrained_encoder
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.knn import knn_predict, nearest_neighbours
from opsin.simclr.pictures import neighbours_figure
from opsin.simclr.recipes import emoji_simclr
from opsin.simclr.task import KNN_TEMPERATURE, NEIGHBOURS
from opsin.simclr.train import train_simclr
from opsin.simclr.views import two_views
from opsin.tour.curves import learning_curves
from opsin.tour.report import Picture, Section, Table
from opsin.training.report import TrainReport

SHOWN = 8
NEAREST = 7


@dataclass(frozen=True)
class _Judged:
    """Rows of the source that are test and training images, the nearest of these for each test image with their
    cosines, (N, NEAREST), and the share of test images whose group the neighbours tell."""

    queries: np.ndarray
    bank: np.ndarray
    cosines: Tensor
    nearest: Tensor
    accuracy: float


def simclr_section(directory: Path, minutes: float, quiet: bool) -> Section:
    """Train by time budget, then show the views, the curve of the neighbours' accuracy, and neighbours themselves."""
    shutil.rmtree(directory, ignore_errors=True)
    recipe = emoji_simclr()
    training = dataclasses.replace(recipe.training, epochs=None, max_steps=None, max_minutes=minutes)
    config = dataclasses.replace(recipe, training=training)
    source = open_source(config.data)
    report = train_simclr(config, directory, quiet=quiet)
    encoder = SimclrEncoder.from_pretrained(report.model)
    judged = _judge(encoder, source, config)
    untrained = _judge(untrained_encoder(encoder), source, config)
    return Section(
        title="Learning without labels",
        introduction=(
            "A ResNet-18 looked at two views of every emoji, cut out, mirrored and recoloured at random, and learned "
            "to give alike features to views of the same picture. No group and no name was shown to it. The features "
            "are judged afterwards: the training pictures that are nearest to a test picture vote for its group."
        ),
        measured=Table(("what", "result", "how"), _rows(report, encoder, judged, untrained, source)),
        pictures=[
            Picture(
                _views_figure(source, config), "What the network is shown: pictures above, two views of each below."
            ),
            Picture(
                learning_curves(directory / "metrics.jsonl", "knn_accuracy", "accuracy of the neighbours' vote"),
                "The contrastive loss, and how often the nearest training pictures tell the group of a held-out one.",
            ),
            Picture(
                _neighbours_figure(source, judged),
                "Test emoji on the left, each with the training pictures of the nearest features, and their cosines.",
            ),
        ],
        repeat=[
            f"opsin train simclr --recipe emoji-simclr --max-minutes {minutes:g} --out runs/simclr",
            "opsin evaluate runs/simclr --protocol knn",
            "opsin index PICTURES --out pictures.index --model runs/simclr",
        ],
        limits=(
            "A short training with one seed: contrastive learning wants hours, and what a network gives before any "
            "training is not far behind yet. Groups are Unicode's; pictures of one group need not look alike."
        ),
    )


def _judge(encoder: SimclrEncoder, source: ImageSource, config: SimclrConfig) -> _Judged:
    assert source.labels is not None and source.class_names is not None
    rows = rows_of_run(source, config)
    queries, bank = (encoder.encode_image(source.load(row) for row in rows[split]) for split in ("test", "train"))
    labels = torch.from_numpy(source.labels)
    classes = len(source.class_names)
    scores = knn_predict(queries, bank, labels[rows["train"]], classes, k=NEIGHBOURS, temperature=KNN_TEMPERATURE)
    accuracy = float((scores.argmax(dim=1) == labels[rows["test"]]).float().mean())
    return _Judged(rows["test"], rows["train"], *nearest_neighbours(queries, bank, NEAREST), accuracy)


def _rows(
    report: TrainReport, encoder: SimclrEncoder, judged: _Judged, untrained: _Judged, source: ImageSource
) -> list[tuple[str, str, str]]:
    assert source.labels is not None
    largest = np.bincount(source.labels[judged.queries]).max() / len(judged.queries)
    protocol = (
        f"vote of the {NEIGHBOURS} nearest of {len(judged.bank)} training pictures (temperature {KNN_TEMPERATURE:g}), "
        f"{len(judged.queries)} pictures of emoji never trained on"
    )
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    size = encoder.preprocessing.image_size
    return [
        ("group of test emoji", f"{judged.accuracy:.1%}", protocol),
        ("the same network untrained", f"{untrained.accuracy:.1%}", "the same vote"),
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


def _neighbours_figure(source: ImageSource, judged: _Judged) -> Figure:
    """Test pictures evenly spread: nothing is picked by hand."""
    shown = np.linspace(0, len(judged.queries) - 1, SHOWN).astype(int)
    queries = [source.load(judged.queries[row]) for row in shown]
    nearest = [[source.load(judged.bank[place]) for place in judged.nearest[row].tolist()] for row in shown]
    return neighbours_figure(queries, nearest, judged.cosines[shown].numpy())
