"""Turning SIGINT and SIGTERM into a request to stop after the current step."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from types import FrameType, TracebackType


class StopSignals:
    """Context manager; `received` is the number of the first signal, or 0. A second signal acts as usual: at once.

    With `announce` the first one is answered on stderr. Outside the main thread Python allows no signal handlers; then
    nothing is caught.
    """

    def __init__(self, *, announce: bool = False) -> None:
        self.received = 0
        self.announce = announce
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()
        if self.announce:
            again = "; press Ctrl-C again to stop now" if number == signal.SIGINT else ""
            # Python refuses to write where the signal came in the middle of another write; there may be no stderr.
            with contextlib.suppress(RuntimeError, OSError, ValueError, AttributeError):
                sys.stderr.write(f"stopping after this step{again}\n")
                sys.stderr.flush()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python, and that Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._previous.clear()
