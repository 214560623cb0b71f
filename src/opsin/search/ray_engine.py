"""Embedding with Ray Data: the shards are spread over the actors of a cluster, each of which holds one encoder.

Every machine has to reach the images and the output directory under the same paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opsin.encoders.base import ImageEncoder
from opsin.errors import CheckpointError, MissingExtraError, OpsinError
from opsin.runtime import environment_default
from opsin.search.collection import Collection
from opsin.search.embedding import LoadEncoder, Task, write_task

RETRIES = 2
"""How often a shard is tried again after the process of the actor that was at work on it has ended."""


class ShardWriter:
    """An actor: loads the encoder once, then writes one shard after another, on the one core that Ray gives it.

    What goes wrong is a result like others, because of an actor's exceptions Ray gives the driver a text only.
    """

    def __init__(self, collection: Collection, out: Path, load_encoder: LoadEncoder, dim: int) -> None:
        self._collection, self._out, self._dim = collection, out, dim
        self._load_encoder = load_encoder

    @cached_property
    def _encoder(self) -> ImageEncoder:
        return self._load_encoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"problem": [self._problem(task) for task in batch["task"]]}

    def _problem(self, task: Task) -> OpsinError | None:
        """What kept the shard from being written, if anything."""
        try:
            write_task(self._collection, self._out, task, self._encoder, self._dim, workers=1)
        except OpsinError as error:
            return error
        except Exception as error:
            return _failure(error)
        return None


def write_with_ray(
    collection: Collection, out: Path, tasks: Sequence[Task], load_encoder: LoadEncoder, dim: int
) -> None:
    """Write the shards of `tasks` on the cluster that `RAY_ADDRESS` names, or on this machine's cores.

    An interrupted run has written whole shards only. Raises MissingExtraError when Ray is not installed, and
    CheckpointError when no cluster can be had or an actor failed.
    """
    with environment_default("RAY_USAGE_STATS_ENABLED", "0"):  # nothing is reported to anyone
        _write(collection, out, tasks, load_encoder, dim)


def _write(collection: Collection, out: Path, tasks: Sequence[Task], load_encoder: LoadEncoder, dim: int) -> None:
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
    except OpsinError:
        raise
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise _failure(error) from error
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
        ShardWriter,
        fn_constructor_args=(bare, out.absolute(), load_encoder, dim),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        # Without a limit, a shard at which actors run out of memory would be tried for ever.
        ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
    )
    for row in written.iter_rows():
        if row["problem"] is not None:
            raise row["problem"]


def _failure(error: Exception) -> CheckpointError:
    reason = next(iter(str(error).strip().splitlines()), "")
    return CheckpointError(
        f"Ray failed ({type(error).__name__}: {reason[:300]}); the shards that are there are whole: run it again, or "
        "use --shard i/n"
    )
