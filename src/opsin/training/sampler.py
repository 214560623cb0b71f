"""Which samples make up which batch: a function of the seed and the step, so a run can start again at any step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from opsin.errors import ConfigError
from opsin.runtime import make_generator


class StepSampler(Sampler[list[int]]):
    """Endless batches of indices from `start_step` on; each epoch is a new permutation of all samples.

    A joint batch is dealt out to the processes one sample at a time, so that together they see exactly the batch that
    a single process would see. A last, smaller batch of an epoch is cut to a multiple of the number of processes.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        *,
        start_step: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % (world_size * accumulate) != 0:
            raise ConfigError(
                f"batch_size ({batch_size}) must be divisible by processes times accumulate ({world_size * accumulate})"
            )
        if num_samples < world_size * accumulate:
            raise ConfigError(
                f"{num_samples} training samples are too few for {world_size * accumulate} parts of a batch"
            )
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples)
        self.seed = seed
        self.start_step = start_step
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        rest = num_samples % self.batch_size
        whole = num_samples // self.batch_size
        self.steps_per_epoch = whole + (rest >= world_size * accumulate)

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from zero, that a step belongs to."""
        return step // self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """`accumulate` lists for each step: this process's part of each part of the joint batch."""
        step = self.start_step
        parts = self.world_size * self.accumulate
        while True:
            epoch, position = divmod(step, self.steps_per_epoch)
            order = torch.randperm(self.num_samples, generator=make_generator(self.seed, "epoch", epoch))
            for start in range(position * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size):
                batch = order[start : start + self.batch_size]
                size = math.floor(len(batch) / parts) * parts
                for part in range(self.accumulate):
                    yield batch[part * self.world_size + self.rank : size : parts].tolist()
                step += 1
