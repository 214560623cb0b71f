"""What a run of any system reports when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsin.images.opening import Skipped
from opsin.training.baselines import BaselineComparison


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a run left: where the model is, its metrics, how it was made, and which images could not be used.

    `baselines` has the score of the held-out images beside what is reached without having learned; empty where nothing
    was held out, or the score has no baseline.
    """

    model: Path
    metrics: dict[str, float]
    choice: str
    """Which weights the model has, and how sure it is that they are the best."""
    steps: int
    seconds: float
    num_train: int
    skipped: tuple[Skipped, ...]
    needs: str | None = None
    """Reference of another model, without whose weights this one cannot be used."""
    baselines: tuple[BaselineComparison, ...] = ()
