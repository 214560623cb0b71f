"""Running the tour: one section a system, its training within a number of minutes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsin.config import Bounds
from opsin.errors import ConfigError
from opsin.files import locked
from opsin.progress import Progress
from opsin.report import Report, machine
from opsin.runtime import describe_environment
from opsin.systems import SYSTEMS, System, load

MARK = ".opsin-tour"
INTRODUCTION = (
    "Everything below was measured just now, on this machine, with data and models that come with the package; what a "
    "section says was trained here was trained just now, too. Nothing was downloaded, and no number was prepared in "
    "advance."
)


def run_tour(directory: Path | str, *, training_minutes: float = 4.5, progress: Progress | None = None) -> Path:
    """Train the systems for their shares of `training_minutes`, show what they and the models of the package do, and
    write `report.html`; returns its path.

    Runs, models and indexes stay in `directory`, one folder a system, and are replaced by the next tour. Raises
    ConfigError for a directory that cannot be used, that another tour is writing to, or that holds folders of these
    names which no tour has made.
    """
    Bounds(above=0).check("max_minutes", training_minutes)
    started = time.monotonic()
    directory = Path(directory)
    shown = _shown()
    total = sum(system.tour_share for system in shown.values())
    with _owned(directory):
        sections = [
            load(system.tour_section)(directory / name, training_minutes * system.tour_share / total, progress)
            for name, system in shown.items()
        ]
        minutes = (time.monotonic() - started) / 60
        report = Report(
            title="A tour of opsin",
            made=f"{datetime.date.today().isoformat()} · {minutes:.1f} minutes on {machine(describe_environment())}",
            introduction=INTRODUCTION,
            sections=sections,
        )
        return report.write(directory / "report.html")


def _shown() -> dict[str, System]:
    """The systems that have a section, by the folder of each, which has the name of the section's module."""
    shown = [system for system in SYSTEMS.values() if system.tour_section]
    return {system.tour_section.partition(":")[0].rpartition(".")[2]: system for system in shown}


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Hold the directory for one tour, and refuse one in which a tour would replace what it has not made."""
    busy = f"another tour is writing to {directory}; wait for it, or choose another --out"
    unusable = f"{directory} cannot be used for the tour"
    with locked(directory / ".lock", busy=busy, kind=ConfigError, unusable=unusable):
        mark = directory / MARK
        if not mark.exists():
            if taken := [name for name in _shown() if (directory / name).exists()]:
                raise ConfigError(
                    f"{directory / taken[0]} was made by something else than a tour, which would replace it; "
                    "choose another --out"
                )
            mark.touch()
        yield
