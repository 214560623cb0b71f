"""The weights that a run keeps, the best and the last ones, as model directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from opsin import checkpoint
from opsin.errors import CheckpointError
from opsin.training.run_directory import RunDirectory
from opsin.training.selection import without_errors

Which = Literal["best", "last"]
NETWORK = "model."
"""Begins the names of the network's weights in the state dict of a task."""


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
