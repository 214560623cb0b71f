"""The part of `opsin evaluate` that judges models of images and texts by retrieval."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from opsin.cli.options import UsageError
from opsin.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from opsin.cli.evaluate_options import EvaluateOptions
    from opsin.clip.evaluation import Evaluation

DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}


def evaluate_model(options: EvaluateOptions) -> int:
    """Judge a model of `opsin train clip`; returns the exit code."""
    if options.beams is not None or options.worst is not None or options.picture is not None:
        raise UsageError(f"--beams, --worst and --picture are for other kinds of models than {options.run}")
    from opsin.clip.evaluation import evaluate_retrieval
    from opsin.encoders.local_clip import LocalClipEncoder

    encoder = LocalClipEncoder.from_pretrained(options.run, options.device, options.precision)
    evaluation = evaluate_retrieval(encoder, encoder.training, options.data, options.split, exclude=options.exclude)
    if options.json:
        print_json(_retrieval_document(evaluation))
    else:
        _print_retrieval(evaluation)
    labels = '--labels "one thing,another thing"'
    note(f"next: opsin classify IMAGES {labels} --model {shlex.quote(options.run)}", quiet=options.quiet)
    return 0


def _retrieval_document(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "protocol": evaluation.protocol,
        "data": evaluation.data,
        "split": evaluation.split,
        "styles": {
            style: {
                direction: {
                    "queries": scores.queries,
                    "candidates": scores.candidates,
                    **{f"recall_at_{k}": value for k, value in scores.recall.items()},
                    **{f"chance_at_{k}": value for k, value in scores.chance.items()},
                    "median_rank": scores.median_rank,
                }
                for direction in DIRECTIONS
                for scores in (getattr(pair, direction),)
            }
            for style, pair in evaluation.styles.items()
        },
        "skipped": [{"id": row.id, "reason": row.reason} for row in evaluation.skipped],
    }


def _print_retrieval(evaluation: Evaluation) -> None:
    rows = []
    for style, pair in evaluation.styles.items():
        for direction, name in DIRECTIONS.items():
            scores = getattr(pair, direction)
            cells = (*scores.recall.values(), scores.chance[10], scores.median_rank)
            rows.append((style, name, scores.queries, scores.candidates, *cells))
    header = ("style", "direction", "queries", "among", "recall@1", "@5", "@10", "chance@10", "median rank")
    print_table(header, rows, title=evaluation.protocol)
    for row in evaluation.skipped:
        print(f"left out  {row.id}: {row.reason}")
