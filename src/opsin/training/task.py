"""What a system gives the trainer: its model, one training step, its evaluation, and how to write the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from opsin.pretrained import RunRecord

Batch = dict[str, Tensor]
NetworkT = TypeVar("NetworkT", bound=nn.Module)


class BatchDataset(Protocol):
    """Training data that is read a batch at a time."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch:
        """Tensors of the samples at `indices`, stacked along the first axis; the same ones whenever they are asked
        for, so random augmentation belongs into `training_step`."""
        ...


class StepOutput(NamedTuple):
    """Result of one training step: the scalar loss to minimise, and scalar metrics to log (detached).

    Both are means over the samples of the batch: the trainer averages them over the parts and processes of a step.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class Task(nn.Module, ABC, Generic[NetworkT]):
    """A model together with how it is trained and judged. The trainer sees nothing else of a system."""

    monitor: str = "val_loss"
    """The metric of `evaluate` by which the best weights are chosen; see `opsin.training.selection`."""
    higher_is_better: bool = False
    other_metrics: ClassVar[Mapping[str, bool]] = {"val_loss": False}
    """Metrics that decide where `monitor` cannot tell, each with whether higher is better."""
    smallest_batch: int = 1
    """An epoch leaves its last batch out when that has fewer samples."""

    model: NetworkT

    def __init__(self, model: NetworkT, run: RunRecord[Any] | None = None) -> None:
        """`run` is what the model keeps of its run, where it is to be kept itself."""
        super().__init__()
        self.model = model
        self.run = run

    @abstractmethod
    def training_step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """The loss of one batch. All randomness comes from `generator` or torch's default one: both are seeded by
        the trainer for each step, which is what makes a resumed run equal a straight one. It runs under autocast when
        the precision is bf16 or 16; the batch arrives as it was read."""

    def forward(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """What the trainer calls, through the wrapper that brings autocast and the exchange of gradients."""
        return self.training_step(batch, generator)

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation data, with the model as it is; empty when there is no validation data.

        Where `monitor` is the mean over samples that change from one validation to the next by chance, its standard
        error is among the metrics, under its name and `opsin.training.selection.ERROR`.
        """

    def learning_rate_scale(self, name: str) -> float:
        """The factor on the learning rate of the parameter of this name."""
        return 1.0

    def foundations(self) -> dict[str, str]:
        """What the run builds on and does not train, such as a text encoder: names, and fingerprints that tell each
        from others. A training state is not taken up with another one. By default that is the source."""
        return {} if self.run is None else self.run.foundations()

    @abstractmethod
    def save_model(self, directory: Path, metrics: Mapping[str, float]) -> None:
        """Write the model as a pretrained directory, with its metrics inside."""

    def save_samples(self, directory: Path, step: int) -> None:
        """Write pictures of what the model does at this step. Nothing by default.

        With averaged weights it is called twice: with these, and with the weights as they are for the directory `raw`
        inside the first one."""
