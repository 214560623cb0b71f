"""The one display of progress, on stderr: a bar on a terminal, elsewhere plain lines, ten seconds apart."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PLAIN_LINE_SECONDS = 10.0

ItemT = TypeVar("ItemT")


class ProgressDisplay:
    """Shows a title, the share done and a status, while it is entered; nothing at all unless `enabled`."""

    def __init__(self, title: str, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self.title = title
        self.enabled = enabled
        self.stream = stream or sys.stderr
        self._bar: Bar | None = None
        self._last_line = -math.inf

    def __enter__(self) -> Self:
        if self.enabled and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}"),
            )
            # Results that are printed meanwhile belong on stdout; where that is the terminal, too, above the bar.
            console, on_terminal = Console(file=self.stream), sys.stdout.isatty()
            self._bar = Progress(*columns, console=console, redirect_stdout=on_terminal)
            self._bar.start()
            self._row = self._bar.add_task(self.title, total=1.0, status="")
        return self

    def show(self, share: float, status: str, *, last: bool = False) -> None:
        """`share` in [0, 1] of the work is done. Without a terminal, most calls show nothing, but the `last` one."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.update(self._row, completed=share, status=status)
        elif last or time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.note(f"{self.title} {share:4.0%}  {status}")

    def note(self, text: str) -> None:
        """One line that stays, above the bar if there is one."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class CountedProgress(ProgressDisplay):
    """Progress of work that is counted, in `unit`s: the number done, how many a second, and the time left."""

    def __init__(
        self, title: str, total: int | None, *, unit: str = "images", done: int = 0, quiet: bool = False
    ) -> None:
        """`total` is None where it is not known, and 0 shows nothing; `done` were done before."""
        super().__init__(title, enabled=not quiet and total != 0)
        self._total, self._unit, self._done, self._before = total, unit, done, done
        self._start = self._last_line = time.monotonic()  # quick work needs no line

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        rate = (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)
        if self._total is None:
            self.show(0.0, f"{self._done:,} {self._unit}  {rate:,.1f}/s")
            return
        left = (self._total - self._done) / rate if rate > 0 else math.inf
        status = f"{self._done:,} of {self._total:,} {self._unit}  {rate:,.1f}/s  left {format_duration(left)}"
        self.show(min(self._done / self._total, 1.0), status)


def counted(
    items: Iterable[ItemT], title: str, total: int | None, *, unit: str = "images", quiet: bool = False
) -> Iterator[ItemT]:
    """The items, one by one, with a `CountedProgress` that advances when the next one is asked for."""
    with CountedProgress(title, total, unit=unit, quiet=quiet) as counter:
        for item in items:
            yield item
            counter.advance()


def format_duration(seconds: float) -> str:
    """`1:05`, `2:03:04`: minutes and seconds, with hours when there are any; `?` when it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
