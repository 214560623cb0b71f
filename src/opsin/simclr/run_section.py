"""What a run's report shows of its SimCLR encoder: nearest neighbors, and confusions of their vote."""

from __future__ import annotations

from opsin.pictures import confusion_figure
from opsin.probing.evaluation import Knn, evaluate_encoder
from opsin.report import Picture, Section
from opsin.simclr.inference import SimclrEncoder


def held_out_section(encoder: SimclrEncoder) -> Section:
    """The vote of the nearest training images on held-out ones. Raises DataError when there are no labels."""
    evaluation = evaluate_encoder(encoder, Knn())
    metrics = evaluation.trained.metrics
    return Section(
        title="Nearest neighbors",
        introduction=f"{evaluation.protocol}: accuracy {metrics.accuracy:.1%}.",
        pictures=[
            Picture(
                evaluation.figure(),
                "Some of these images, evenly spread over all, and the labelled ones that are nearest to them, with "
                "their cosines.",
            ),
            Picture(
                confusion_figure(metrics.confusion, evaluation.class_names),
                "Which classes are taken for which: rows are the true class, columns the predicted one.",
            ),
        ],
    )
