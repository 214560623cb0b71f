"""Embedding with Ray in a process of its own, because Ray's parts talk to each other through sockets.

`python -m tests.search.ray_run PHOTOS OUT` starts Ray once and prints what each way to load an encoder comes to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from opsin.errors import OfflineError, OpsinError
from opsin.images.opening import ImageLike
from opsin.search.embedding import embed
from tests.search.colours import ColourEncoder
from tests.search.test_embedding import load_small_clip

DRIVER = "OPSIN_TEST_DRIVER"


class DeadlyEncoder(ColourEncoder):
    """Ends the process of whoever encodes with it, but for the driver's."""

    def encode_image(self, images: Iterable[ImageLike], *, normalize: bool = True) -> Tensor:
        if not is_driver():
            os._exit(1)
        return super().encode_image(images, normalize=normalize)


def is_driver() -> bool:
    return os.environ[DRIVER] == str(os.getpid())


def load_at_driver_only() -> ColourEncoder:
    if not is_driver():
        raise OfflineError("the weights are not on this machine")
    return ColourEncoder()


def main() -> None:
    import ray

    from opsin.search import ray_engine
    from tests.search import ray_run  # so that the workers find what is pickled under this name

    ray_engine.RETRIES = 0  # each takes a process that has to start

    os.environ[DRIVER] = str(os.getpid())
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    photos, out = map(Path, sys.argv[1:])
    results = {}
    for name, load in {
        "good": load_small_clip,
        "offline": ray_run.load_at_driver_only,
        "deadly": ray_run.DeadlyEncoder,
    }.items():
        try:
            report = embed(photos, out / name, load, rows_per_shard=16, engine="ray")
            results[name] = [report.written, [row.id for row in report.skipped]]
        except OpsinError as error:
            results[name] = [type(error).__name__, str(error)]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
