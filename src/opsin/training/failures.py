"""What can end a run before its time: signals, which ask it to stop, and errors, as sentences that say what happened,
what is kept of the run, and how it goes on.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from opsin.errors import CheckpointError, TrainingError, TrainingInterrupted
from opsin.files import chain_of, is_disk_full
from opsin.training.processes import is_lost_peer
from opsin.training.state import TrainingState

WORKER = re.compile(r"DataLoader worker .* (?:killed by signal: (?P<signal>[^.]*)|exited unexpectedly)")
"""How torch says that a worker process is gone; it has no error of its own for it."""


@contextmanager
def explained(state: TrainingState, workers: int) -> Iterator[None]:
    """Raise errors of the block again with what the run's user needs to know, where the error itself cannot say it.

    A full disk is a CheckpointError; a data-loading worker or another process that is gone is a TrainingError; a
    KeyboardInterrupt, which a second Ctrl-C gives, is a TrainingInterrupted.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise TrainingInterrupted(f"stopped at once; {kept(state)}", signal.SIGINT) from interrupt
    except CheckpointError as error:
        if not is_disk_full(error):
            raise
        raise CheckpointError(f"the disk is full: {error}. {_capital(kept(state))}, once there is room") from error
    except RuntimeError as error:
        if is_lost_peer(error):
            raise TrainingError("another process of the run has stopped; its own message says why") from error
        if lost := _lost_worker(error, workers):
            raise TrainingError(f"{lost}; {kept(state)}") from error
        raise


def kept(state: TrainingState) -> str:
    """What a run that ends now can go on from."""
    if state.saved_step is None:
        return f"no state was saved yet; begin the run in {state.paths.path} again with --resume"
    return f"the state after step {state.saved_step} is kept in {state.paths.path}; continue with --resume"


def _lost_worker(error: BaseException, workers: int) -> str:
    """What became of a data-loading worker; empty when the error is about something else."""
    found = [match for link in chain_of(error) if (match := WORKER.search(str(link)))]
    if not found:
        return ""
    signals = [match["signal"] for match in found if match["signal"]]
    if "Bus error" in signals:
        return (
            "a data-loading worker was killed: there is too little shared memory (/dev/shm) for "
            f"--workers {workers}; use fewer, or 0, which needs none"
        )
    how = f"was killed ({signals[0]})" if signals else "ended unexpectedly"
    return f"a data-loading worker {how}, probably out of memory; use fewer --workers than {workers}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


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
