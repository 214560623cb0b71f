"""Which samples make up which batch: a function of the seed and the step, so a run can start again at any step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from opsin.errors import ConfigError
from opsin.runtime import make_generator


class StepSampler(Sampler[list[int]]):
    """Endless batches of indices from `start_step` on; each epoch is a new permutation of all samples, but for a last
    batch of fewer than `smallest_batch`, which is left out.

    A joint batch is dealt out to the processes, and to the parts of an accumulated step, one sample at a time, so that
    together they see exactly the batch that a single process would see. When it does not divide, as at the end of an
    epoch, the parts differ in size: `share_of` says how much each counts.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        *,
        start_step: int = 0,
        accumulate: int = 1,
        smallest_batch: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % (world_size * accumulate) != 0:
            raise ConfigError(
                f"batch_size ({batch_size}) must be divisible by processes times accumulate ({world_size * accumulate})"
            )
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples)
        self.seed = seed
        self.start_step = start_step
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        whole, rest = divmod(num_samples, self.batch_size)
        self.steps_per_epoch = whole + int(rest >= smallest_batch)

    def share_of(self, step: int, part: int) -> float:
        """Share that this process's `part` has in the samples of the joint batch of `step`; 0 when it has none."""
        size = min(self.batch_size, self.num_samples - step % self.steps_per_epoch * self.batch_size)
        return len(range(*self._deal(part).indices(size))) / size

    def __iter__(self) -> Iterator[list[int]]:
        """`accumulate` lists for each step: this process's part of each part of the joint batch."""
        step = self.start_step
        while True:
            epoch, position = divmod(step, self.steps_per_epoch)
            order = torch.randperm(self.num_samples, generator=make_generator(self.seed, "epoch", epoch))
            for batch in order.split(self.batch_size)[position : self.steps_per_epoch]:
                for part in range(self.accumulate):
                    # A process without a sample takes part all the same, with one that counts nothing: the others
                    # wait for its gradients.
                    yield batch[self._deal(part)].tolist() or batch[:1].tolist()
                step += 1

    def _deal(self, part: int) -> slice:
        return slice(part * self.world_size + self.rank, None, self.world_size * self.accumulate)
