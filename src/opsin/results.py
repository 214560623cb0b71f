"""What a verb has computed, in the forms in which it is shown: a JSON document, tables, and a figure.

The command line, and whatever else shows results, chooses the form and knows nothing of what is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsin.images.opening import Skipped
    from opsin.training.baselines import BaselineComparison


@dataclass(frozen=True)
class Table:
    """Rows of texts, numbers, and None where there is nothing, under a title; `remark` stands below them."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    title: str | None = None
    remark: str | None = None


class Shown(Protocol):
    """What verbs compute."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Images that were left out."""
        ...

    def document(self) -> dict[str, Any]:
        """All of it as JSON types."""
        ...

    def tables(self) -> list[Table]:
        """What people want to read of it."""
        ...


class Result(Shown, Protocol):
    """What evaluations give."""

    @property
    def baselines(self) -> Sequence[BaselineComparison]:
        """Scores beside what is reached without having learned anything."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences that people have to know, besides those on `baselines`."""
        ...

    def figure(self) -> Figure | None:
        """What there is to look at; None where there is nothing."""
        ...


def skipped_document(skipped: Iterable[Skipped]) -> list[dict[str, str]]:
    """Images that were left out, and why, as JSON types."""
    return [{"id": row.id, "reason": row.reason} for row in skipped]


def baseline_rows(baselines: Iterable[BaselineComparison]) -> list[tuple[str, float]]:
    """Rows for a table of metrics."""
    return [(f"{comparison.metric} of {comparison.baseline}", comparison.value) for comparison in baselines]
