"""Where metrics go: a JSON Lines file and TensorBoard events always, Weights & Biases when asked."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from opsin.errors import CheckpointError, MissingExtraError, system_errors_as
from opsin.files import atomic_write
from opsin.runtime import is_offline
from opsin.training.run_directory import RunDirectory

logger = logging.getLogger(__name__)
TAG_GROUPS = ("train", "val", "seen")
"""Begin the names of metrics of training batches, of validation images, and of training images judged like these."""


class MetricsLog:
    """Context manager that writes metrics of steps. Opened for a resumed run, it drops what lies after the resumed
    state, so that the record reads as if the run had never stopped."""

    def __init__(
        self,
        directory: Path,
        *,
        start_step: int = 0,
        start_is_validated: bool = True,
        wandb_project: str | None = None,
    ) -> None:
        """The resumed state is that after `start_step`, saved after its validation or before it."""
        self.path = directory / "metrics.jsonl"
        self.directory = directory
        self.start_step = start_step
        self.start_is_validated = start_is_validated
        self.wandb_project = wandb_project

    def __enter__(self) -> MetricsLog:
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in read_metrics(self.path) if self._is_before_start(row)]
        with atomic_write(self.path) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        with self._writing():
            self._tensorboard = SummaryWriter(
                str(RunDirectory(self.directory).tensorboard), purge_step=self.start_step + 1
            )
            self._file: TextIO = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
        self._wandb = _start_wandb(self.wandb_project, self.directory) if self.wandb_project else None
        return self

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record finite metrics after `step` optimiser steps; CheckpointError when the disk does not take them."""
        with self._writing():
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._tensorboard.add_scalar(tensorboard_tag(name), value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An error of the block says more than one of closing.
        closing = self._writing() if error is None else contextlib.suppress(OSError)
        with closing, contextlib.ExitStack() as stack:  # each is closed even where another cannot be
            if self._wandb is not None:
                stack.callback(self._wandb.finish, exit_code=0 if error is None else 1)
            stack.callback(self._tensorboard.close)
            stack.callback(self._file.close)

    def _is_before_start(self, row: Mapping[str, Any]) -> bool:
        if row["step"] == self.start_step and not self.start_is_validated:
            return "train_loss" in row  # else it is the validation's, which is to come again
        return bool(row["step"] <= self.start_step)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return system_errors_as(CheckpointError, f"the metrics in {self.directory} cannot be written")


def tensorboard_tag(name: str) -> str:
    """The tag of a metric, grouped: `train/loss`, `val/accuracy`, and `run/learning_rate` for what is of neither."""
    part, _, rest = name.partition("_")
    return f"{part}/{rest}" if part in TAG_GROUPS and rest else f"run/{name}"


def tensorboard_command(run: RunDirectory) -> str:
    """The command that opens the events of a run, under the run's name."""
    name, path = run.path.resolve().name, str(run.tensorboard)
    named = not any(character in name + path for character in ":,")  # which part the option's value
    return (
        f"tensorboard --logdir_spec {shlex.quote(f'{name}:{path}')}"
        if named
        else (f"tensorboard --logdir {shlex.quote(path)}")
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, empty when there is no such file.

    A last line cut short by a crash is left out. So are other lines that are no metrics of a step, with a warning.
    Raises CheckpointError when the file cannot be read.
    """
    with system_errors_as(CheckpointError, f"{path} cannot be read"):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
    rows = [_row(line) for line in lines]
    if damaged := [number for number, row in enumerate(rows[:-1], start=1) if row is None]:
        logger.warning(
            "%s is damaged: %d of its %d lines are no metrics and are left out, the first is line %d",
            path,
            len(damaged),
            len(lines),
            damaged[0],
        )
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """The metrics in a line: numbers by name, with the step that they were measured after."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(isinstance(value, int | float) for value in row.values()):
        return None
    return row if isinstance(row.get("step"), int) else None


def _start_wandb(project: str, directory: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError("logging to Weights & Biases needs its package: pip install wandb") from error
    mode = "offline" if is_offline() else None  # None leaves it to WANDB_MODE
    return wandb.init(project=project, dir=str(directory), resume="allow", id=wandb_id(directory), mode=mode)


def wandb_id(directory: Path) -> str:
    """The name under which a run continues its record, drawn once: directories of different runs may share a name."""
    path = RunDirectory(directory).wandb_id
    if not path.exists():
        with atomic_write(path) as file:
            file.write(secrets.token_hex(8).encode())
    return path.read_text(encoding="utf-8")
