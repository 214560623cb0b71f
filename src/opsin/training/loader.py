"""Which samples make up which batch, and how batches get from the data set to the device."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Sampler

from opsin.data.datasets import PixelDataset
from opsin.errors import ConfigError, DataError, OpsinError
from opsin.images.opening import Skipped
from opsin.runtime import make_generator
from opsin.training.task import Batch, BatchDataset


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


MOST_OF_FREE_MEMORY = 0.25
"""Of a GPU: the network, its gradients and what lies between them need the rest."""


def load_batches(
    dataset: BatchDataset, sampler: StepSampler, device: torch.device, workers: int
) -> Generator[Batch, None, None]:
    """The batches that `sampler` names, on `device`, without end; closing the generator ends the worker processes.

    Images in memory move to a GPU once and for all where they take a small part of what is free there. What worker
    processes find broken is added to the `skipped` of the dataset, where it has such a list. Raises DataError when not
    a single sample of the dataset can be read, and RuntimeError, as torch does, when a worker process is gone.
    """
    dataset, is_there = _moved_to_gpu(dataset, device)
    # Elsewhere torch may still be copying when the source is freed (its issue 83015, on MPS).
    pinned = device.type == "cuda" and not is_there
    loader: DataLoader[_Read] = DataLoader(
        _NeverEmpty(dataset),  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=0 if is_there else workers,
        collate_fn=_as_is,  # batches come whole from the dataset
        pin_memory=pinned,
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    skipped = _skipped(dataset)
    reads = iter(loader)
    try:
        for read in reads:
            skipped += [row for row in read.skipped if row not in skipped]
            if read.error:
                raise DataError(read.error)
            yield {name: tensor.to(device, non_blocking=pinned) for name, tensor in read.batch.items()}
    except OpsinError:
        raise
    except (OSError, EOFError) as error:
        if "in DataLoader worker process" in str(error):  # raised by the dataset
            raise
        # A killed worker takes batches with it that it had announced. Said as torch says it where it notices first.
        raise RuntimeError("DataLoader worker (unknown) exited unexpectedly") from error
    finally:
        # Torch does this when nothing refers to the iterator any more, which an error does. Until then it takes the end
        # of any child process for one of a killed worker's, again.
        if loader.num_workers:
            reads._shutdown_workers()  # type: ignore[attr-defined]


class _Read(NamedTuple):
    """What comes out of a worker process: an exception would come as a traceback."""

    batch: Batch
    error: str
    """Empty, but for a batch that is none."""
    skipped: list[Skipped]
    """What was found broken over this batch."""


def _skipped(dataset: BatchDataset) -> list[Skipped]:
    found: list[Skipped] = getattr(dataset, "skipped", [])
    return found


def _moved_to_gpu(dataset: BatchDataset, device: torch.device) -> tuple[BatchDataset, bool]:
    """The dataset on the device, and True; or where that is no GPU, or too small, as it is, and False."""
    if device.type != "cuda" or not isinstance(dataset, PixelDataset):
        return dataset, False
    free, _ = torch.cuda.mem_get_info(device)
    if dataset.pixels.nbytes > MOST_OF_FREE_MEMORY * free:
        return dataset, False
    return dataset.to(device), True


class _NeverEmpty:
    """A dataset that may refuse a batch with DataError, because none of its samples can be read. The next sample that
    can be read takes the place of such a batch: one small damaged part of the data must not end a run."""

    def __init__(self, dataset: BatchDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> _Read:
        known = len(_skipped(self.dataset))
        batch: Batch = {}
        error = ""
        try:
            batch = self._batch(indices)
        except DataError as unreadable:
            error = str(unreadable)
        return _Read(batch, error, _skipped(self.dataset)[known:])

    def _batch(self, indices: list[int]) -> Batch:
        try:
            return self.dataset.__getitems__(indices)
        except DataError as error:
            unreadable = error
        for distance in range(1, len(self.dataset)):
            with contextlib.suppress(DataError):
                return self.dataset.__getitems__([(indices[-1] + distance) % len(self.dataset)])
        raise unreadable


def _as_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches the workers too, and the main process needs them to finish its step; they end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
