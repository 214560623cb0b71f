"""Embedding with Ray Data: the shards are spread over the actors of a cluster, each of which holds one encoder.

Every machine has to reach the images and the output directory under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsin.clip.search.collection import Collection
from opsin.clip.search.embedding import LoadEncoder, Task, write_task
from opsin.errors import CheckpointError, MissingExtraError, OpsinError


class _ShardWriter:
    """An actor: loads the encoder once, then writes one shard after another, on the one core that Ray gives it."""

    def __init__(self, collection: Collection, out: Path, load_encoder: LoadEncoder, dim: int) -> None:
        self._collection, self._out, self._dim = collection, out, dim
        self._encoder = load_encoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for task in batch["task"]:
            write_task(self._collection, self._out, task, self._encoder, self._dim, workers=1)
        return {"number": [task.number for task in batch["task"]]}


def write_with_ray(
    collection: Collection, out: Path, tasks: Sequence[Task], load_encoder: LoadEncoder, dim: int
) -> None:
    """Write the shards of `tasks` on the cluster that `RAY_ADDRESS` names, or on this machine's cores.

    An interrupted run has written whole shards only. Raises MissingExtraError when Ray is not installed, and
    CheckpointError when no cluster can be had or an actor failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "the engine ray needs Ray Data: pip install 'opsin[ray]'; --shard i/n spreads the work without it"
        ) from error
    if not tasks:
        return
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        _run(ray, collection, out, tasks, load_encoder, dim)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        if isinstance(cause, OpsinError):
            raise cause from error
        reason = str(cause).strip().splitlines() or [type(cause).__name__]
        raise CheckpointError(
            f"Ray failed ({reason[-1][:300]}); the shards that are there are whole: run it again, or use --shard i/n"
        ) from error
    finally:
        if started:
            ray.shutdown()


def _run(
    ray: Any, collection: Collection, out: Path, tasks: Sequence[Task], load_encoder: LoadEncoder, dim: int
) -> None:
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    actors = max(1, min(len(tasks), gpus or cpus))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The entries travel with the tasks, so that the actors need no list of the whole collection.
    bare = replace(collection, entries=(), skipped=())  # type: ignore[type-var]
    written = ray.data.from_items([{"task": task} for task in tasks]).map_batches(
        _ShardWriter,
        fn_constructor_args=(bare, out.absolute(), load_encoder, dim),
        batch_size=1,
        concurrency=actors,
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    written.materialize()
