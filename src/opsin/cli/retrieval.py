"""The part of `opsin evaluate` that judges models of images and texts by retrieval."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opsin.cli.baselines import note_next, warn
from opsin.cli.options import UsageError
from opsin.cli.output import note_unlike, print_json, print_skipped, print_table

if TYPE_CHECKING:
    from opsin.cli.evaluate_options import EvaluateOptions
    from opsin.clip.evaluation import Evaluation
    from opsin.clip.retrieval import RetrievalPair

DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}


def evaluate_model(options: EvaluateOptions) -> int:
    """Judge a model of `opsin train clip`; returns the exit code."""
    if options.beams is not None or options.worst is not None or options.picture is not None:
        raise UsageError(f"--beams, --worst and --picture are for other kinds of models than {options.run}")
    from opsin.clip.evaluation import evaluate_retrieval
    from opsin.clip.inference import ClipEncoder

    encoder = ClipEncoder.from_pretrained(options.run, options.device, options.precision)
    evaluation = evaluate_retrieval(
        encoder,
        encoder.run,
        options.data,
        options.split,
        exclude=options.exclude,
        near_duplicates=options.near_duplicates,
    )
    if options.json:
        print_json(_retrieval_document(evaluation))
    else:
        _print_retrieval(evaluation)
    note_unlike(encoder, options.run, "open_clip:ViT-B-32/openai", options.quiet)
    if evaluation.overlap is not None:
        warn(evaluation.overlap.warnings)
    labels = '--labels "one thing,another thing"'
    command = f"opsin classify IMAGES {labels} --model {shlex.quote(options.run)}"
    note_next(command, evaluation.baselines, quiet=options.quiet)
    return 0


def _retrieval_document(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "protocol": evaluation.protocol,
        "data": evaluation.data,
        "split": evaluation.split,
        "styles": {style: _pair_document(pair) for style, pair in evaluation.styles.items()},
        "all_captions": {style: _pair_document(pair) for style, pair in evaluation.all_captions.items()} or None,
        "baselines": [comparison.document() for comparison in evaluation.baselines],
        **(evaluation.overlap.document() if evaluation.overlap is not None else {}),
        "skipped": [{"id": row.id, "reason": row.reason} for row in evaluation.skipped],
    }


def _pair_document(pair: RetrievalPair) -> dict[str, Any]:
    return {
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


def _print_retrieval(evaluation: Evaluation) -> None:
    _print_pairs(evaluation.styles, evaluation.protocol)
    if evaluation.all_captions:
        _print_pairs(evaluation.all_captions, "the same images with all of their captions, each a text of its own")
    print_skipped(evaluation.skipped)


def _print_pairs(styles: Mapping[str, RetrievalPair], title: str) -> None:
    rows = []
    for style, pair in styles.items():
        for direction, name in DIRECTIONS.items():
            scores = getattr(pair, direction)
            cells = (*scores.recall.values(), *scores.chance.values(), scores.median_rank)
            rows.append((style, name, scores.queries, scores.candidates, *cells))
    recalls, chances = ([f"{name}@{k}" for k in (1, 5, 10)] for name in ("recall", "chance"))
    header = ("style", "direction", "queries", "among", *recalls, *chances, "median rank")
    print_table(header, rows, title=title)
