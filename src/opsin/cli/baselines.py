"""How verbs show a score beside its baseline, and what they advise where it is no better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsin.cli.output import note

if TYPE_CHECKING:
    from opsin.training.baselines import BaselineComparison


def baseline_rows(baselines: Sequence[BaselineComparison]) -> list[tuple[str, float]]:
    """Rows for a table of metrics."""
    return [(f"{comparison.metric} of {comparison.baseline}", comparison.value) for comparison in baselines]


def note_next(command: str | None, baselines: Sequence[BaselineComparison], *, quiet: bool) -> None:
    """Print the next useful command on stderr, or, where a score is no better than its baseline, a warning that says
    so and what to do, also when `quiet`."""
    worse = [comparison for comparison in baselines if not comparison.is_better]
    for comparison in worse:
        note(f"warning: {comparison.sentence}")
    if command is not None and not worse:
        note(f"next: {command}", quiet=quiet)


def warn(sentences: Sequence[str]) -> None:
    """Print warnings on stderr, also when the verb is to be quiet."""
    for sentence in sentences:
        note(f"warning: {sentence}")
