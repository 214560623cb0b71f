"""What any training run has to show in its report: how it ended, its curves, its samples, and its settings."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from opsin.checkpoint import read_model_config
from opsin.config import load_json
from opsin.errors import CheckpointError, ConfigError
from opsin.progress import format_duration
from opsin.report import MEASURED, Picture, Report, Section, Table, machine, spread
from opsin.training.curves import course_curves, score_curves
from opsin.training.loggers import read_metrics, tensorboard_command
from opsin.training.run_directory import RunDirectory
from opsin.training.selection import describe_metrics, without_errors

MOST_SAMPLES = 4
NO_CURVES = ("step", "epoch", "seconds")


def run_report(run: RunDirectory, held_out: Sequence[Section] = ()) -> Report:
    """The report of a run that is done, or as far as it has come; `held_out` shows its model on held-out images.

    Raises CheckpointError when the directory holds no run, or files of it cannot be read.
    """
    settings = run.read_config()
    rows = read_metrics(run.metrics)
    environment = _optional_json(run.environment)
    choice = _optional_json(run.weights)
    sections = [_result(run, rows, choice), _curves(rows, choice), *held_out, _samples(run)]
    return Report(
        title=f"Training run {run.path.resolve().name}",
        made=f"{_length(rows)} on {machine(environment)}" if environment else _length(rows),
        introduction=f"Trained on the source {settings.get('data', 'unknown')!r}.",
        sections=[*(section for section in sections if section is not None), _settings(settings)],
    )


def _result(run: RunDirectory, rows: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Section:
    quoted = shlex.quote(str(run.path))
    commands = [f"opsin evaluate {quoted}", f"opsin export {quoted} --weights last --out DIR", tensorboard_command(run)]
    metrics: dict[str, Any] = {}
    if choice:
        introduction = f"The model has the {choice.get('weights')} weights: {choice.get('choice')}."
        metrics = read_model_config(run.model).get("metrics", {})
    else:
        introduction = "The run has not ended and has no model yet; repeat its command with --resume to continue it."
        validations = [row for row in rows if any(name.startswith(("val_", "seen_")) for name in row)]
        if validations:
            metrics = {name: value for name, value in validations[-1].items() if name not in NO_CURVES}
            introduction += f" The scores are those of its latest validation, after step {validations[-1]['step']}."
        del commands[0]  # there is nothing to evaluate
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    errors = _errors_at(rows, choice.get("step"))
    cells = [tuple(describe_metrics({name: numbers[name], **errors}).split(" ", 1)) for name in without_errors(numbers)]
    return Section(
        title="Result",
        introduction=introduction,
        table=Table(("metric", "value"), cells) if cells else None,
        table_title=MEASURED,
        limits="val_… is on images held out to validate on, test_… on images looked at once, after training. "
        "A run is one seed: expect other seeds to differ by about the standard error (±), or more.",
        commands=commands,
        commands_title="Go on with it",
    )


def _errors_at(rows: Sequence[Mapping[str, Any]], step: Any) -> dict[str, float]:
    """The standard errors that the validation after a step measured."""
    at_step = [row for row in rows if row["step"] == step]
    return {name: value for row in at_step for name, value in row.items() if name not in without_errors(row)}


def _curves(rows: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Section | None:
    figures = (
        (score_curves(rows, choice.get("step")), "Losses and scores; bands are standard errors."),
        (course_curves(rows), "Learning rate, gradient and throughput."),
    )
    pictures = [Picture(figure, caption) for figure, caption in figures if figure is not None]
    if not pictures:
        return None
    return Section("Curves", "What metrics.jsonl has, over the optimizer steps of the run.", pictures=pictures)


def _samples(run: RunDirectory) -> Section | None:
    """Samples of steps evenly spread over the run, the last one among them."""
    readable = [(path, content) for path in sorted(run.samples.glob("step-*.png")) if (content := _png(path))]
    if not readable:
        return None
    shown = [readable[place] for place in spread(range(len(readable)), MOST_SAMPLES)]
    pictures = [
        Picture(content, f"After step {path.stem.removeprefix('step-').lstrip('0') or 0}.") for path, content in shown
    ]
    return Section("Samples", "The same prompts from the same noise, in the course of the run.", pictures=pictures)


def _png(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return content


def _settings(settings: Mapping[str, Any]) -> Section:
    rows = [(name, json.dumps(value, ensure_ascii=False)) for name, value in _flat(settings)]
    return Section(
        "Settings", "Every setting of the run, as in its config.json.", table=Table(("setting", "value"), rows)
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _length(rows: Sequence[Mapping[str, Any]]) -> str:
    steps = max((row["step"] for row in rows), default=0)
    seconds = max((row.get("seconds", 0.0) for row in rows), default=0.0)
    return f"{steps} steps in {format_duration(seconds)}"


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return load_json(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
