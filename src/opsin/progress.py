"""How long calls tell what they have done, and how they are asked to stop.

A call that may take long has a parameter `progress`: it reports there, and raises Cancelled when it is to stop. Without
one it is silent. `ConsoleProgress` is what the command line shows.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeVar

from opsin.errors import Cancelled

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PLAIN_LINE_SECONDS = 5.0

ItemT = TypeVar("ItemT")


class Progress:
    """Ignores all reports and never stops anything; subclasses override what they need.

    Methods are called often, from the thread of the call that reports. A call may do several kinds of work, one after
    the other, each under its own title.
    """

    def report(self, title: str, done: float, total: float | None, unit: str = "", status: str = "") -> None:
        """So much of some work is done.

        Args:
            title: What is done, such as `encoding`.
            done: How many units are done; first of all as many as had been done before.
            total: How many there are; None where that is not known.
            unit: What is counted, in the plural.
            status: What to say in place of the numbers.
        """

    def note(self, text: str) -> None:
        """A line that is worth keeping, such as the result of a validation."""

    def finish(self) -> None:
        """The work that was reported last has ended, perhaps with an error."""

    def should_stop(self) -> bool:
        """Whether the call is to stop as soon as it can."""
        return False


@contextmanager
def working(
    progress: Progress | None, title: str, total: int | None, *, unit: str = "images", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Report the work of a block, which calls what it gets with how many more units are done.

    Raises Cancelled, at the beginning and from these calls, when the work is to stop before its end.
    """
    progress = progress or Progress()

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress.report(title, done, total, unit)
        if done != total and progress.should_stop():
            of_all = "" if total is None else f" of {total:,}"
            raise Cancelled(f"{title} was stopped after {done:,}{of_all} {unit}")

    try:
        advance(0)
        yield advance
    finally:
        progress.finish()


def tracked(
    items: Iterable[ItemT], progress: Progress | None, title: str, total: int | None, *, unit: str = "images"
) -> Iterator[ItemT]:
    """The items, one by one, as the work of a block of `working` that advances when the next one is asked for."""
    with working(progress, title, total, unit=unit) as advance:
        for item in items:
            yield item
            advance(1)


class ConsoleProgress(Progress):
    """A bar on stderr; where that is no terminal, plain lines a few seconds apart, and none for quick work."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._title: str | None = None
        self._bar: Bar | None = None
        self._row: TaskID

    def report(self, title: str, done: float, total: float | None, unit: str = "", status: str = "") -> None:
        if total == 0:
            return
        if title != self._title:
            self._begin(title, done)
        share = min(done / total, 1.0) if total else 0.0
        status = status or self._counts(done, total, unit)
        if self._bar is not None:
            self._bar.update(self._row, completed=share, status=status)
        elif self._is_time_for_line(is_last=share == 1):
            self._last_line = time.monotonic()
            self.note(f"{title} {share:4.0%}  {status}")

    def note(self, text: str) -> None:
        """Print the line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def finish(self) -> None:
        self._title = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _begin(self, title: str, done: float) -> None:
        self.finish()
        self._title, self._before = title, done
        self._start = self._last_line = time.monotonic()
        if self.stream.isatty():
            self._bar = _new_bar(self.stream)
            self._bar.start()
            self._row = self._bar.add_task(title, total=1.0, status="")

    def _is_time_for_line(self, *, is_last: bool) -> bool:
        has_lines = self._last_line > self._start
        return time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS or (is_last and has_lines)

    def _counts(self, done: float, total: float | None, unit: str) -> str:
        """How many are done, how many a second, and the time left."""
        rate = (done - self._before) / max(time.monotonic() - self._start, 1e-9)
        if total is None:
            return f"{done:,} {unit}  {rate:,.1f}/s"
        left = (total - done) / rate if rate > 0 else math.inf
        return f"{done:,} of {total:,} {unit}  {rate:,.1f}/s  left {format_duration(left)}"


def _new_bar(stream: TextIO) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]}"),
    )
    # Results that are printed meanwhile belong on stdout; where that is the terminal, too, above the bar.
    return Progress(*columns, console=Console(file=stream), redirect_stdout=sys.stdout.isatty())


def format_duration(seconds: float) -> str:
    """`1:05`, `2:03:04`: minutes and seconds, with hours when there are any; `?` when it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
