"""What `opsin evaluate --protocol` does: evaluate the features of an encoder by labels."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from opsin.cli.baselines import baseline_rows, note_next, warn
from opsin.cli.class_scores import accuracy_rows, classes_document
from opsin.cli.options import UsageError
from opsin.cli.output import note, note_unlike, print_json, print_skipped, print_table

if TYPE_CHECKING:
    from opsin.cli.evaluate_options import EvaluateOptions
    from opsin.probing.evaluation import Evaluation, ProbeProtocol, ProbeResult


def evaluate_features(options: EvaluateOptions) -> int:
    """Evaluate by `options.protocol`, or by nearest neighbours where there is none; returns the exit code."""
    protocol = _protocol(options)
    from opsin.encoders import load
    from opsin.probing.evaluation import evaluate_encoder

    encoder = load(options.run, options.device, options.precision)
    evaluation = evaluate_encoder(
        encoder,
        protocol,
        options.data,
        options.split,
        near_duplicates=options.near_duplicates,
        progress=options.progress,
    )
    if options.json:
        print_json(_document(evaluation, protocol))
    else:
        _print_tables(evaluation)
    note_unlike(encoder, options.run, "opsin evaluate imagenet", options.quiet)
    if options.picture is not None:  # after the scores: a picture that cannot be written does not cost them
        from opsin.pictures import save_figure

        save_figure(protocol.figure(encoder, evaluation), options.picture)
        note(f"picture: {options.picture}", quiet=options.quiet)
    warn(evaluation.overlap.warnings)
    note_next(None, evaluation.baselines, quiet=options.quiet)
    other = evaluation.other
    if other is not None:
        data = f" --data {shlex.quote(options.data)}" if options.data else ""
        share = "" if other.labels_fraction is None else f" --labels-fraction {other.labels_fraction:g}"
        data += f" --train-data {shlex.quote(other.train_data)}" if other.train_data else ""
        command = f"opsin evaluate {shlex.quote(options.run)}{data} --protocol {other.name}{share}"
        note(f"next: {command}", quiet=options.quiet)
    return 0


def _protocol(options: EvaluateOptions) -> ProbeProtocol:
    name = options.protocol or "knn"
    if name != "knn" and (options.k is not None or options.temperature is not None):
        raise UsageError(f"-k and --temperature are for --protocol knn, not for {name}")
    from opsin.probing.evaluation import Knn, Linear
    from opsin.simclr.protocols import Finetune, LinearCourse

    kinds: dict[str, type[ProbeProtocol]] = {kind.name: kind for kind in (Knn, Linear, LinearCourse, Finetune)}
    names = ("labels_fraction", "k", "temperature", "train_data")
    given = {name: getattr(options, name) for name in names}
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return kinds[name](seed=options.seed or 0, exclude=options.exclude, **settings)


def _document(evaluation: Evaluation, protocol: ProbeProtocol) -> dict[str, Any]:
    return {
        "protocol": evaluation.protocol,
        "name": protocol.name,
        "data": evaluation.data,
        "train_data": protocol.train_data,
        "split": evaluation.split,
        "labels_fraction": evaluation.trained.labelled / evaluation.labels,
        "count": evaluation.trained.metrics.count,
        **_scores(evaluation.trained),
        "untrained": None if evaluation.untrained is None else _scores(evaluation.untrained),
        "baselines": [comparison.document() for comparison in evaluation.baselines],
        **classes_document(evaluation.trained.metrics, evaluation.class_names),
        **evaluation.overlap.document(),
        "skipped": [{"id": row.id, "reason": row.reason} for row in evaluation.trained.skipped],
    }


def _scores(result: ProbeResult) -> dict[str, Any]:
    scores: dict[str, Any] = {"accuracy": result.metrics.accuracy, "top5_accuracy": result.metrics.top5_accuracy}
    details = {"k": result.k, "strength": result.strength, "held_out": result.held_out, "curve": result.curve or None}
    return {**scores, "labelled": result.labelled, **{key: value for key, value in details.items() if value}}


def _print_tables(evaluation: Evaluation) -> None:
    encoders = [result for result in (evaluation.trained, evaluation.untrained) if result is not None]
    columns = [accuracy_rows(result.metrics) for result in encoders]
    rows: list[tuple[str, Any]] = [(name, [dict(column)[name] for column in columns]) for name, _ in columns[0]]
    if evaluation.trained.strength is not None:
        rows.append(("chosen strength of the regularisation", [result.strength for result in encoders]))
    if evaluation.trained.curve:
        rows.append(
            ("best accuracy after any epoch, as the course reports it", [max(result.curve) for result in encoders])
        )
    header = ("metric", "this encoder", "the same untrained")[: 1 + len(encoders)]
    rows += [(name, [value] * len(encoders)) for name, value in baseline_rows(evaluation.baselines[:1])]
    print_table(header, [(name, *values) for name, values in rows], title=evaluation.protocol)
    print_skipped(evaluation.trained.skipped)
