"""What `opsin evaluate` shows of a captioner: its scores beside people's captions, and the worst of its captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from opsin.captioning.evaluation import Evaluation
from opsin.images.opening import Skipped
from opsin.results import Table, baseline_rows, skipped_document
from opsin.training.baselines import BaselineComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D (of 10)",
    "exact_match": "exact match",
    "distinct_ratio": "different captions / captions",
}
DIVERSITY = {"distinct1": "distinct-1", "distinct2": "distinct-2", "repetition": "repeated words"}


@dataclass(frozen=True)
class CaptioningResult:
    """Evaluations on one or several splits, each with its `worst` captions."""

    evaluations: Sequence[Evaluation]
    worst: int = 5

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that were left out of any of the evaluations."""
        return tuple(dict.fromkeys(row for evaluation in self.evaluations for row in evaluation.skipped))

    @property
    def baselines(self) -> tuple[BaselineComparison, ...]:
        """Those of all evaluations."""
        return tuple(comparison for evaluation in self.evaluations for comparison in evaluation.baselines)

    @property
    def warnings(self) -> list[str]:
        """Captions that have collapsed, and what the images have in common with training images."""
        found = []
        for evaluation in self.evaluations:
            collapse = evaluation.result.collapse(evaluation.split)
            found += [*([collapse] if collapse else []), *(evaluation.overlap.warnings if evaluation.overlap else [])]
        return found

    def document(self) -> dict[str, Any]:
        """The scores as JSON types."""
        return {"evaluations": [self._document(evaluation) for evaluation in self.evaluations]}

    def tables(self) -> list[Table]:
        """The scores and the worst captions of each evaluation."""
        return [table for evaluation in self.evaluations for table in self._tables(evaluation)]

    def figure(self) -> Figure:
        """The images with the worst captions, beside people's. Raises ValueError for features, which have no images."""
        from opsin.captioning.pictures import captions_figure
        from opsin.pictures import LARGEST_PICTURE

        shown = [(one, place) for one in self.evaluations for place in one.result.worst(self.worst)]
        return captions_figure(
            [evaluation.image(place, LARGEST_PICTURE) for evaluation, place in shown],
            [evaluation.result.captions[place].text for evaluation, place in shown],
            [evaluation.result.references[place] for evaluation, place in shown],
        )

    def _document(self, evaluation: Evaluation) -> dict[str, Any]:
        result, metrics = evaluation.result, evaluation.result.metrics
        return {
            "protocol": evaluation.protocol,
            "data": evaluation.data,
            "split": evaluation.split,
            "count": metrics.count,
            **{name: getattr(metrics, name) for name in SCORES},
            "loss": result.loss,
            "collapsed": metrics.collapsed,
            "diversity": asdict(metrics.diversity),
            "reference_diversity": asdict(metrics.reference_diversity),
            "baselines": [comparison.document() for comparison in evaluation.baselines],
            **(evaluation.overlap.document() if evaluation.overlap else {}),
            "worst": [
                {
                    "id": evaluation.ids[place],
                    "caption": result.captions[place].text,
                    "references": result.references[place],
                    **asdict(metrics.per_image[place]),
                }
                for place in result.worst(self.worst)
            ],
            "skipped": skipped_document(evaluation.skipped),
        }

    def _tables(self, evaluation: Evaluation) -> list[Table]:
        result, metrics = evaluation.result, evaluation.result.metrics
        scores = [(name, float(getattr(metrics, field))) for field, name in SCORES.items()]
        diversity = [
            (f"{name}{whose}", getattr(captions, field))
            for field, name in DIVERSITY.items()
            for whose, captions in (("", metrics.diversity), (" of people's captions", metrics.reference_diversity))
        ]
        rows = [*scores, *diversity, ("loss (nats per word)", result.loss), *baseline_rows(evaluation.baselines)]
        worst = [
            (
                evaluation.ids[place],
                result.captions[place].text,
                result.references[place][0],
                metrics.per_image[place].cider_d,
            )
            for place in result.worst(self.worst)
        ]
        return [
            Table(("metric", "value"), rows, evaluation.protocol),
            Table(("image", "caption", "a person's", "CIDEr-D"), worst, "worst captions"),
        ]
