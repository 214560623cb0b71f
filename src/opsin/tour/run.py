"""Running the tour: one section a system, within a number of minutes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path

from opsin.runtime import describe_environment
from opsin.tour.classification import classification_section
from opsin.tour.report import Report, Section

SectionMaker = Callable[[Path, float, bool], Section]

SECTIONS: dict[str, tuple[SectionMaker, float]] = {
    "classification": (classification_section, 1.0),
}
"""Each system's section and its share of the training time."""


def run_tour(directory: Path | str, *, training_minutes: float = 2.0, quiet: bool = False) -> Path:
    """Train every system for its share of `training_minutes` and write `report.html`; returns its path.

    Runs and models stay in `directory`, one folder a system, and are replaced by the next tour.
    """
    started = time.monotonic()
    directory = Path(directory)
    total = sum(share for _, share in SECTIONS.values())
    sections = [
        make(directory / name, training_minutes * share / total, quiet) for name, (make, share) in SECTIONS.items()
    ]
    report = Report(
        sections=sections,
        environment=describe_environment(),
        minutes=(time.monotonic() - started) / 60,
        date=datetime.date.today().isoformat(),
    )
    return report.write(directory / "report.html")
