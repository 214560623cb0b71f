"""One progress display on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

PLAIN_LINE_SECONDS = 10.0


class ProgressDisplay:
    """Shows share done, step, loss, throughput, share of time spent waiting for data, and time left."""

    def __init__(self, title: str, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self.title = title
        self.enabled = enabled
        self.stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._last_line = -math.inf

    def __enter__(self) -> ProgressDisplay:
        if self.enabled and self.stream.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}"),
            )
            # Results that are printed meanwhile belong on stdout, not here.
            self._bar = Progress(*columns, console=Console(file=self.stream), redirect_stdout=False)
            self._bar.start()
            self._row = self._bar.add_task(self.title, total=1.0, status="")
        return self

    def update(
        self, share: float, step: int, loss: float, samples_per_second: float, waiting: float, eta: float
    ) -> None:
        """`share` in [0, 1] of the run, `waiting` in [0, 1] of the time, `eta` in seconds."""
        if not self.enabled:
            return
        status = (
            f"step {step}  loss {loss:.4f}  {samples_per_second:.0f} samples/s  "
            f"waiting for data {waiting:.0%}  left {format_duration(eta)}"
        )
        if self._bar is not None:
            self._bar.update(self._row, completed=share, status=status)
        elif share >= 1 or time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
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


def format_duration(seconds: float) -> str:
    """`1:05`, `2:03:04`: minutes and seconds, with hours when there are any; `?` when it is not known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
