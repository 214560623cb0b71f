"""The picture that goes with an evaluation of an encoder."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from opsin.encoders.base import ImageEncoder
from opsin.pictures import LARGEST_PICTURE, confusion_figure
from opsin.simclr.evaluation import Encoded, Evaluation, Protocol, encode
from opsin.simclr.judged_data import open_judged
from opsin.simclr.knn import nearest_neighbours
from opsin.simclr.pictures import comparison_figure, embedding_figure, neighbours_figure

SHOWN = 8
NEIGHBOURS = 7
MOST_POINTS = 2000


def evaluation_figure(encoder: ImageEncoder, protocol: Protocol, evaluation: Evaluation) -> Figure:
    """For knn, test images with their nearest neighbours; for linear, a map of the test images; for linear-seed, the
    accuracy after each epoch with pretraining and without it; for finetune, the confusion matrix.

    Features are those that the evaluation left in the cache. Images are evenly spread over the split.
    """
    if protocol.name == "finetune":
        return confusion_figure(evaluation.trained.metrics.confusion, evaluation.class_names)
    if protocol.name == "linear-seed":
        assert evaluation.untrained is not None
        return comparison_figure(evaluation.untrained.curve, evaluation.trained.curve)
    data, split = evaluation.data, evaluation.split
    parts = open_judged(encoder, data, split, protocol.fraction, protocol.seed, protocol.exclude, protocol.train_data)
    test = encode(parts.test, encoder)
    if protocol.name == "knn":
        return _neighbours(encode(parts.labelled, encoder), test, evaluation.class_names)
    some = _spread(len(test.labels), MOST_POINTS)
    return embedding_figure(test.features[some], test.labels[some].numpy(), evaluation.class_names)


def _neighbours(bank: Encoded, test: Encoded, class_names: tuple[str, ...]) -> Figure:
    some = _spread(len(test.labels), SHOWN)
    cosines, nearest = nearest_neighbours(test.features[some], bank.features, min(NEIGHBOURS, len(bank.labels)))
    names = [class_names[label] for label in test.labels[some]]
    their_names = [[class_names[bank.labels[row]] for row in rows] for rows in nearest]
    return neighbours_figure(
        [test.source.load(int(row), LARGEST_PICTURE) for row in some],
        [[bank.source.load(int(row), LARGEST_PICTURE) for row in rows] for rows in nearest],
        cosines.numpy(),
        (names, their_names),
    )


def _spread(count: int, most: int) -> torch.Tensor:
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64)))
