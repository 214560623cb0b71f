"""The directory of a training run: what lies where, and that only one process writes to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opsin import config as config_files
from opsin.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from opsin.files import locked, remove_leftovers, write_json
from opsin.runtime import describe_environment


class RunDirectory:
    """Paths of a run: config.json, environment.json, metrics.jsonl, samples/, checkpoints/{last,best}.pt, model/, and
    weights.json, which says which weights the model has, and why."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tensorboard"
        self.last = self.path / "checkpoints" / "last.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.description = self.path / "checkpoints" / "model"
        """A model directory of this run without its weights."""
        self.weights = self.path / "weights.json"
        self.report = self.path / "report.html"
        self.model = self.path / "model"
        self.wandb_id = self.path / "wandb_id"

    def read_config(self) -> dict[str, Any]:
        """The resolved config of the run; CheckpointError when the directory holds no run."""
        try:
            return config_files.load_json(self.config)
        except ConfigError as error:
            kind = CheckpointNotFoundError if isinstance(error, FileNotFoundError) else CheckpointError
            raise kind(f"{self.path} holds no run to continue: {error}") from error

    @contextmanager
    def locked(self, *, resume: bool) -> Iterator[None]:
        """Hold the directory for one writer, and clear away what a killed writer left half-written.

        Raises ConfigError when another process is training into it, when it cannot be written to, or, without
        `resume`, when it holds a run already; CheckpointError when there is no run to resume.
        """
        if resume:
            self.read_config()  # before anything is created
        busy = f"another process is training into {self.path}; wait for it, or choose another --out"
        unusable = f"{self.path} cannot be used as the run directory"
        with locked(self.path / ".lock", busy=busy, kind=ConfigError, unusable=unusable):
            if not resume and (self.config.exists() or self.last.exists()):
                raise ConfigError(
                    f"{self.path} already holds a run; add --resume to continue it, or choose another --out"
                )
            self._remove_leftovers()
            yield

    def record(self, config: Mapping[str, Any]) -> None:
        """Write config and environment of a run that begins or goes on."""
        write_json(self.config, config)
        write_json(self.environment, describe_environment())

    def _remove_leftovers(self) -> None:
        """Temporary files of this run only: other runs may lie below, and the directory may hold files of others."""
        files = (self.config, self.environment, self.metrics, self.weights, self.wandb_id)
        for target in (*files, self.last, self.best, self.description, self.model):
            remove_leftovers(target.parent, target.name)
        for folder in (self.samples, self.samples / "raw"):
            remove_leftovers(folder)
