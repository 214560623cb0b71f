"""What a run's report shows of its classifier: confusions, and the most confident mistakes."""

from __future__ import annotations

from opsin.classification.evaluation import evaluate_classifier
from opsin.classification.inference import Classifier
from opsin.pictures import confusion_figure
from opsin.report import Picture, Section

SHOWN = 12


def held_out_section(classifier: Classifier) -> Section:
    """Confusions and mistakes on the images that were held out from training. Raises DataError when there are none."""
    evaluation = evaluate_classifier(classifier)
    metrics = evaluation.metrics
    pictures = [
        Picture(
            confusion_figure(metrics.confusion, evaluation.class_names),
            "Which classes are taken for which: rows are the true class, columns the predicted one.",
        )
    ]
    if figure := evaluation.mistakes_figure(SHOWN):
        caption = "The most confident mistakes: the predicted class with its probability, and the true class."
        pictures.append(Picture(figure, caption))
    return Section(
        title="Confusion",
        introduction=f"{evaluation.protocol}: accuracy {metrics.accuracy:.1%}.",
        pictures=pictures,
    )
