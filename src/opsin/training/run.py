"""A training run from its data and its task to a model directory with measured scores: the same for every system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from opsin.config import to_dict
from opsin.data.datasets import DatasetT, Splits
from opsin.data.repeats import warn_of_repeats
from opsin.images.opening import Skipped
from opsin.pretrained import PretrainedModel
from opsin.progress import Progress
from opsin.results import Table, baseline_rows, skipped_document
from opsin.runtime import is_first_process
from opsin.training.baselines import BaselineComparison
from opsin.training.config import RunConfig
from opsin.training.task import Task
from opsin.training.trainer import Trainer

ConfigT = TypeVar("ConfigT", bound=RunConfig)
SplitsT = TypeVar("SplitsT", bound=Splits[Any])


@dataclass(frozen=True)
class FinalScores:
    """What is measured once, after training, and the score of held-out images beside what is reached without having
    learned; no `baselines` where nothing was held out, or the score has none."""

    metrics: dict[str, float] = field(default_factory=dict)
    baselines: tuple[BaselineComparison, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainReport(Generic[SplitsT]):
    """What a run left: where the model is, its metrics, how it was made, and the data that it was made of."""

    model: Path
    metrics: dict[str, float]
    choice: str
    """Which weights the model has, and how sure it is that they are the best."""
    steps: int
    seconds: float
    splits: SplitsT
    baselines: tuple[BaselineComparison, ...]
    """See `FinalScores`."""

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.splits.train)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be used."""
        return self.splits.skipped

    @property
    def needs(self) -> str | None:
        """Reference of another model, without whose weights this one cannot be used."""
        return self.splits.needs

    def document(self) -> dict[str, Any]:
        """What the run left, as JSON types."""
        return {
            "model": str(self.model),
            "metrics": self.metrics,
            "choice": self.choice,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "needs": self.needs,
            "baselines": [comparison.document() for comparison in self.baselines],
            "skipped": skipped_document(self.skipped),
        }

    def tables(self) -> list[Table]:
        """The metrics, and below them where the model is and how it was made."""
        how = f"{self.steps} steps in {self.seconds / 60:.1f} minutes" if self.steps else f"{self.seconds:.0f} seconds"
        remarks = [
            f"model: {self.model}  ({how})",
            f"weights: {self.choice}",
        ]
        if self.needs is not None:
            remarks.append(f"needs: {self.needs}, whose weights are not in the model's directory")
        rows = [*self.metrics.items(), *baseline_rows(self.baselines)]
        return [Table(("metric", "value"), rows, remark="\n".join(remarks))]


def run_training(
    config: ConfigT,
    directory: str | Path,
    task: Task[Any],
    splits: SplitsT,
    measure: Callable[[ConfigT, SplitsT, Path, Mapping[str, float]], FinalScores] | None = None,
    *,
    resume: bool,
    progress: Progress | None,
) -> TrainReport[SplitsT]:
    """Train `task` on `splits.train` as `config` says into the run directory, or go on with the run that is there.

    Images that are in more than one split are a warning. `measure` gets config and splits, and the model directory with
    its metrics, in the first process of the run only. Raises what `Trainer.fit` raises.
    """
    if splits.source is not None:
        warn_of_repeats(splits.source)
    trainer = Trainer(config.training, directory, progress=progress)
    result = trainer.fit(task, splits.train, to_dict(config), resume=resume)
    final = FinalScores()
    if measure is not None and is_first_process():
        final = measure(config, splits, trainer.run.model, result.metrics)
    return TrainReport(
        model=trainer.run.model,
        metrics={**result.metrics, **final.metrics},
        choice=result.choice,
        steps=result.steps,
        seconds=result.seconds,
        splits=splits,
        baselines=final.baselines,
    )


def measure_model(
    model: PretrainedModel,
    directory: Path,
    datasets: Mapping[str, DatasetT],
    score: Callable[[DatasetT, str], FinalScores],
) -> FinalScores:
    """Score the model that a run has exported on datasets by the names of their splits, and write the metrics into its
    directory.

    `score` gets a dataset and its name in metrics. The baselines are those of the test split, or else of the
    validation split, whose metrics are left out: those of the last validation stand.
    """
    metrics: dict[str, float] = {}
    baselines: tuple[BaselineComparison, ...] = ()
    for name, dataset in datasets.items():
        scores = score(dataset, name.replace("-", "_"))
        if name == ("test" if "test" in datasets else "val"):
            baselines = scores.baselines
        if name != "val":
            metrics |= scores.metrics
    if metrics:
        model.add_metrics(metrics)
        model.save_pretrained(directory)
    return FinalScores(metrics, baselines)
