"""The directory of a training run: what lies where, that only one process writes to it, and its weights, the best and
the last ones, as model directories."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from opsin import checkpoint
from opsin import config as config_files
from opsin.counts import human_bytes
from opsin.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from opsin.files import locked, remove_leftovers, write_json
from opsin.pretrained import load_model
from opsin.runtime import describe_environment
from opsin.training.selection import without_errors


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


Which = Literal["best", "last"]
NETWORK = "model."
"""Begins the names of the network's weights in the state dict of a task."""


@dataclass(frozen=True)
class ExportedModel:
    """A model in a directory of its own."""

    directory: Path
    bytes: int
    """Of all its files."""

    @property
    def summary(self) -> str:
        """The directory and its size, in a line."""
        return f"model: {self.directory}  ({human_bytes(self.bytes)})"

    def document(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {"model": str(self.directory), "bytes": self.bytes}


def export_model(
    model: str,
    out: Path,
    *,
    half: bool = False,
    encoder_only: bool = False,
    weights: Which | None = None,
    card: str | None = None,
) -> ExportedModel:
    """Write a model into a directory of its own; one that is there already is replaced.

    Args:
        model: A run or model directory, the name of a model that ships with opsin, or hf-hub:ORG/NAME.
        out: The directory.
        half: Round the weights to float16.
        encoder_only: Leave out the projection that a model of SimCLR was trained with.
        weights: Those of a run to take, instead of those that the run chose for its model.
        card: Markdown that takes the place of the model card.

    Raises ConfigError for a model without a projection, and what `write_weights` and `export_pretrained` raise.
    """
    with tempfile.TemporaryDirectory() as folder:
        source: str | Path = model
        if weights is not None:
            plain = write_weights(model, weights, Path(folder) / "weights")
            is_of_run = plain != Path(folder) / "weights"  # with a card that has their scores
            source = plain if is_of_run else load_model(plain, "cpu").save_pretrained(Path(folder) / "model")
        if encoder_only:
            source = load_model(source, "cpu").without_projection().save_pretrained(Path(folder) / "encoder")
        directory = checkpoint.export_pretrained(source, out, half=half, card=card)
    return ExportedModel(directory, sum(file.stat().st_size for file in directory.iterdir()))


def write_weights(run: Path | str, which: Which, directory: Path) -> Path:
    """Write the `best` or the `last` weights of a run as a model directory; returns where they are.

    The last weights are the EMA weights where the run has them. The run may be going on, stopped, or done. Where these
    are the weights of its model, nothing is written, and the result is that model, whose scores are the more complete.
    Raises CheckpointError when `run` is no run, or has not kept such weights yet.
    """
    paths = RunDirectory(run)
    file = paths.best if which == "best" else paths.last
    if not paths.config.exists() or not (paths.path / "checkpoints").is_dir():
        raise CheckpointError(f"{run} is not a run directory: it has no {which} weights to choose; leave --weights out")
    if not file.exists():
        reason = (
            "it was not validated yet by a score that tells them" if which == "best" else "it has saved no state yet"
        )
        raise CheckpointError(f"the run {run} has no {which} weights: {reason}")
    tensors, metrics = _read(checkpoint.load_training_state(file), which, file)
    if _are_exported(paths, tensors):
        return paths.model
    content = checkpoint.read_model_config(paths.description if paths.description.exists() else paths.model)
    kind = content.pop("kind")
    config = {**content, "metrics": metrics}
    domain = checkpoint.read_domain(paths.description) or checkpoint.read_domain(paths.model)
    return checkpoint.save_pretrained(directory, kind=kind, config=config, tensors=tensors, card="", domain=domain)


def _read(state: dict[str, Any], which: Which, file: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights by their names in the network, and what was measured with them."""
    try:
        if which == "best":
            return state["model"], without_errors(state["metrics"])
        own = {name.removeprefix(NETWORK): value for name, value in state["model"].items() if name.startswith(NETWORK)}
        counters = state["counters"]
        is_measured = counters["validated_step"] == counters["step"]
        metrics = without_errors(counters["last_metrics"]) if is_measured else {}
        return state["ema"] or own, metrics
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} does not hold the weights of a run: {error!r} is missing in it") from error


def _are_exported(paths: RunDirectory, tensors: dict[str, Tensor]) -> bool:
    if not (paths.model / "model.safetensors").is_file():
        return False
    kind = str(checkpoint.read_model_config(paths.model)["kind"])
    _, exported = checkpoint.load_pretrained(paths.model, kind=kind)
    # A model directory may lack what follows from the config, such as a noise schedule.
    return exported.keys() <= tensors.keys() and all(
        torch.equal(tensor, tensors[name].cpu()) for name, tensor in exported.items()
    )
