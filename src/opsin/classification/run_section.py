"""What a run's report shows of its classifier: which classes are taken for which."""

from __future__ import annotations

from opsin.classification.evaluation import evaluate_classifier
from opsin.classification.inference import Classifier
from opsin.pictures import confusion_figure
from opsin.report import Picture, Section


def held_out_section(classifier: Classifier) -> Section:
    """The confusion matrix on the images that were held out from training. Raises DataError when there are none."""
    evaluation = evaluate_classifier(classifier)
    metrics = evaluation.metrics
    return Section(
        title="Confusion",
        introduction=f"{metrics.count} images of {evaluation.data!r}, split {evaluation.split!r}: "
        f"accuracy {metrics.accuracy:.1%}.",
        pictures=[
            Picture(
                confusion_figure(metrics.confusion, evaluation.class_names),
                "Which classes are taken for which: rows are the true class, columns the predicted one.",
            )
        ],
    )
