"""What a run's report shows of its dual encoder: how alike images and their captions are."""

from __future__ import annotations

from opsin.clip.evaluation import evaluate_retrieval
from opsin.clip.inference import ClipEncoder
from opsin.report import Picture, Section


def held_out_section(encoder: ClipEncoder) -> Section:
    """Recall beside chance, and cosines of some held-out images and captions. Raises DataError when there are none."""
    evaluation = evaluate_retrieval(encoder, encoder.run)
    scores = [f"{row.metric} {row.score:.1%}, by chance {row.value:.1%}" for row in evaluation.baselines]
    caption = "Some of these images, evenly spread over all, and their captions; right pairs are on the diagonal."
    return Section(
        title="Retrieval",
        introduction=f"{evaluation.protocol}: {'; '.join(scores)}.",
        pictures=[Picture(evaluation.figure(), caption)],
    )
