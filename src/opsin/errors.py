"""Every error that opsin raises on purpose: one sentence for a person, saying what is wrong, where, and what to do.

They are also the built-in errors that Python code expects: a wrong setting or wrong data is a ValueError, a path that
does not exist a FileNotFoundError, a missing package an ImportError.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class OpsinError(Exception):
    """Base of all deliberate errors; the command line prints its message and exits with `exit_code`."""

    exit_code = 1


class ConfigError(OpsinError, ValueError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class ConfigNotFoundError(ConfigError, FileNotFoundError):
    """A file of settings does not exist."""


class DataError(OpsinError, ValueError):
    """An image, a file or a data source cannot be used."""


class DataNotFoundError(DataError, FileNotFoundError):
    """An image, a file or a data source does not exist."""


class CheckpointError(OpsinError):
    """A model directory or a training state cannot be read, written, or used for this model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no model, training state or index of this name or at this path."""


class TrainingError(OpsinError):
    """Training cannot go on, for example because the loss is no longer finite."""


class Cancelled(OpsinError):
    """A long call was stopped through its `progress`. What it had done is lost only where its docstring says so."""

    exit_code = 130


class TrainingInterrupted(Cancelled):
    """Training was stopped by a signal, or through its `progress`, after its state was saved.

    `exit_code` is 128 plus the signal number: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class MissingExtraError(OpsinError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class OfflineError(OpsinError):
    """Something has to be downloaded and there is no network, or its use was forbidden."""


OF_MISSING_PATHS: dict[type[OpsinError], type[OpsinError]] = {
    ConfigError: ConfigNotFoundError,
    DataError: DataNotFoundError,
    CheckpointError: CheckpointNotFoundError,
}


@contextmanager
def system_errors_as(kind: type[OpsinError], what: str, advice: str = "") -> Iterator[None]:
    """In the block, what the operating system refuses becomes the error `kind` with the sentence `WHAT: REASON ADVICE`.

    For a path that does not exist it is the error of that kind which is also a FileNotFoundError. Errors of opsin
    stay what they are.
    """
    try:
        yield
    except OpsinError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            kind = OF_MISSING_PATHS.get(kind, kind)
        raise kind(f"{what}: {error.strerror or error}{advice}") from error
