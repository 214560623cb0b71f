"""How verbs print: results on stdout as tables or one JSON document, everything else on stderr."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsin.names import printable
from opsin.results import Answer, Answers, Shown, Table, image_document

if TYPE_CHECKING:
    from opsin.images.opening import Skipped, StoredImage
    from opsin.training.baselines import BaselineComparison

JSON_DIGITS = 6
"""Significant digits of numbers in JSON documents: as many as float32 has for certain."""
SKIPPED_SHOWN = 20
"""Images that were left out of which people are told one by one."""
WIDEST_NAME = 60
"""Characters of a column of names that is printed before all of it is known."""


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; numbers have `JSON_DIGITS`, and what is no finite number is null."""
    print(json.dumps(_with_sensible_numbers(document), indent=2, ensure_ascii=_ascii_only(), allow_nan=False))


def print_json_line(document: Any) -> None:
    """`print_json` as one line of JSON Lines, at once, so that its reader need not wait for the next one."""
    print(json.dumps(_with_sensible_numbers(document), ensure_ascii=_ascii_only(), allow_nan=False), flush=True)


def print_paths(paths: Iterable[str]) -> None:
    """Print one path a line on stdout, byte for byte, as other programs want to read them."""
    for path in paths:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n") if hasattr(sys.stdout, "buffer") else print(path)


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table on stdout, under its title; columns of numbers are aligned on the right, None is a dash."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    rows = [list(row) for row in rows]
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(header):
        values = [row[position] for row in rows if row[position] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        table.add_column(escape(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    # A pipe has no width: give it room, so that no value is folded for readers such as grep.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000, highlight=False)
    if title is not None:
        console.print(
            escape(printable(title)), style="bold"
        )  # a title of the table itself would be folded to the table's width
    console.print(table)


def show(result: Shown, as_json: bool) -> None:
    """Print a result: as one JSON document, or as tables with what was left out."""
    if as_json:
        print_json(result.document())
        return
    for table in result.tables():
        print_table(table.header, table.rows, title=table.title)
        if table.remark:
            print(table.remark)
    print_skipped(result.skipped)


def write_csv(path: Path, table: Table, quiet: bool) -> None:
    """Write a table for spreadsheets and scripts, in UTF-8, whole or not at all, and say where it is."""
    from opsin.files import atomic_write

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))
    note(f"table: {path}", quiet)


class AnswerPrinter:
    """Prints answers about images: each as soon as it is known, as a row of a table whose first column is as wide as
    the names of `files`, or as a line of JSON Lines; or all of them at the end, as one JSON document."""

    def __init__(
        self, column: str, files: Iterable[Path | StoredImage], *, as_json: bool = False, as_lines: bool = False
    ) -> None:
        """`as_lines` is of JSON."""
        self.column: str | None = column
        self.width = min(max((len(printable(str(file))) for file in files), default=0), WIDEST_NAME)
        self.as_json, self.as_lines = as_json, as_json and as_lines

    def each(self, file: Path | StoredImage, answer: Answer) -> None:
        """One answer; the first row stands below the header."""
        if self.as_lines:
            print_json_line(image_document(file, answer))
        elif not self.as_json:
            if self.column:
                print(f"{'image':<{self.width}}   {self.column}")
                self.column = None
            print(f"{printable(str(file)):<{self.width}}   {printable(answer.text)}", flush=True)

    def end(self, answers: Answers[Any]) -> None:
        """What is left to print when all answers are there."""
        if self.as_lines:
            for row in answers.skipped:
                print_json_line({"image": row.id, "skipped": row.reason})
        elif self.as_json:
            print_json(answers.document())
        else:
            print_skipped(answers.skipped)


def note(text: str, quiet: bool = False) -> None:
    """Print a remark for people, such as the next useful command, on stderr; nothing when `quiet`."""
    if not quiet:
        print(text, file=sys.stderr)


def note_unlike(model: object, name: str, photographs: str | None, quiet: bool) -> None:
    """Say it when many of the images that a model was given look unlike its training images.

    `photographs` says what there is for photographs, if anything, which people often give to a model of emoji.
    """
    from opsin.domain import watch_of
    from opsin.pretrained import run_of

    watch = watch_of(model)
    if not watch.is_notable:
        return
    run = run_of(model)
    is_of_emoji = run is not None and run.config.data == "emoji"
    hint = f"; for photographs: {photographs}" if photographs and is_of_emoji else ""
    images = "the image looks" if watch.seen == 1 else f"{watch.unlike} of {watch.seen} images look"
    note(f"{images} unlike the training images of {name}{hint}", quiet)


def note_next(command: str | None, baselines: Iterable[BaselineComparison], *, quiet: bool) -> None:
    """Print the next useful command on stderr, or, where a score is no better than its baseline, a warning that says
    so and what to do, also when `quiet`."""
    worse = [comparison.sentence for comparison in baselines if not comparison.is_better]
    warn(worse)
    if command is not None and not worse:
        note(f"next: {command}", quiet=quiet)


def warn(sentences: Iterable[str]) -> None:
    """Print warnings on stderr, also when the verb is to be quiet."""
    for sentence in sentences:
        note(f"warning: {sentence}")


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """A line for each of the first images or folders that were left out: its name once, and the reason."""
    rows = list(skipped)
    for row in rows[:SKIPPED_SHOWN]:
        before, name, _ = row.reason.partition(f"{row.id} ")
        is_named = bool(name) and (not before or before.endswith("/"))
        print(f"left out  {row.reason[len(before) :] if is_named else f'{row.id}: {row.reason}'}")
    if (more := len(rows) - SKIPPED_SHOWN) > 0:
        print(f"left out  and {more} more; --json lists them all")


def _with_sensible_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{JSON_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _with_sensible_numbers(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_with_sensible_numbers(own) for own in value]
    return value


def _ascii_only() -> bool:
    """JSON has an escape for every character that this terminal or pipe may not have."""
    return (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int | float):
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
    return printable(str(value))
