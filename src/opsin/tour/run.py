"""Running the tour: one section a system, its training within a number of minutes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from opsin.errors import ConfigError
from opsin.report import Report, Section, machine
from opsin.runtime import describe_environment
from opsin.tour.captioning import captioning_section
from opsin.tour.classification import classification_section
from opsin.tour.clip import clip_section
from opsin.tour.diffusion import diffusion_section
from opsin.tour.simclr import simclr_section

MARK = ".opsin-tour"
INTRODUCTION = (
    "Everything below was measured just now, on this machine, with data and models that come with the package; what a "
    "section says was trained here was trained just now, too. Nothing was downloaded, and no number was prepared in "
    "advance."
)
SectionMaker = Callable[[Path, float, bool], Section]

SECTIONS: dict[str, tuple[SectionMaker, float]] = {
    "classification": (classification_section, 1.0),
    "captioning": (captioning_section, 1.5),
    "simclr": (simclr_section, 1.0),
    "clip": (clip_section, 0.0),
    "diffusion": (diffusion_section, 1.0),
}
"""Each system's section and its share of the training time; without a share it shows a model of the package."""


def run_tour(directory: Path | str, *, training_minutes: float = 4.5, quiet: bool = False) -> Path:
    """Train the systems for their shares of `training_minutes`, show what they and the models of the package do, and
    write `report.html`; returns its path.

    Runs, models and indexes stay in `directory`, one folder a system, and are replaced by the next tour. Raises
    ConfigError for a directory that cannot be used, that another tour is writing to, or that holds folders of these
    names which no tour has made.
    """
    if not training_minutes > 0:
        raise ConfigError(f"max_minutes must be above zero, not {training_minutes}")
    started = time.monotonic()
    directory = Path(directory)
    total = sum(share for _, share in SECTIONS.values())
    with _owned(directory):
        sections = [
            make(directory / name, training_minutes * share / total, quiet) for name, (make, share) in SECTIONS.items()
        ]
        minutes = (time.monotonic() - started) / 60
        report = Report(
            title="A tour of opsin",
            made=f"{datetime.date.today().isoformat()} · {minutes:.1f} minutes on {machine(describe_environment())}",
            introduction=INTRODUCTION,
            sections=sections,
        )
        return report.write(directory / "report.html")


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Hold the directory for one tour, and refuse one in which a tour would replace what it has not made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigError(f"another tour is writing to {directory}; wait for it, or choose another --out") from error
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used for the tour: {error.strerror or error}") from error
    try:
        mark = directory / MARK
        if not mark.exists():
            if taken := [name for name in SECTIONS if (directory / name).exists()]:
                raise ConfigError(
                    f"{directory / taken[0]} was made by something else than a tour, which would replace it; "
                    "choose another --out"
                )
            mark.touch()
        yield
    finally:
        lock.release()
