"""Batches of a run on their way from the data set to the device."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader

from opsin.training.sampler import StepSampler
from opsin.training.task import Batch, BatchDataset


def load_batches(
    dataset: BatchDataset, sampler: StepSampler, device: torch.device, workers: int
) -> Generator[Batch, None, None]:
    """The batches that `sampler` names, on `device`, without end; closing the generator ends the worker processes."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_is,  # batches come whole from the dataset
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    for batch in loader:
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _as_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches the workers too, and the main process needs them to finish its step; they end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
