"""What a run of any system reports when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsin.data.images import Skipped


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a run left: where the model is, its metrics, how it was made, and which images could not be used."""

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
