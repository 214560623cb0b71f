"""The report of a tour: one self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from opsin.files import atomic_write


def spread(places: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """At most `count` of the places, evenly spread."""
    return [int(places[round(index)]) for index in np.linspace(0, len(places) - 1, min(count, len(places)))]


@dataclass(frozen=True)
class Picture:
    """A figure with the sentence below it; the sentence is also what a screen reader says."""

    figure: Figure
    caption: str

    @property
    def data_uri(self) -> str:
        """The figure as a PNG inside an address, so that the report needs no other file."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A small table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """What one system has to show."""

    title: str
    introduction: str
    measured: Table
    pictures: Sequence[Picture]
    repeat: Sequence[str]
    """Commands that do again what the section shows."""
    limits: str
    """What the numbers do not say."""


@dataclass(frozen=True)
class Report:
    """All sections, with the machine that they were made on."""

    sections: Sequence[Section]
    environment: dict[str, object]
    minutes: float
    date: str
    title: str = "A tour of opsin"
    notes: Sequence[str] = field(default_factory=tuple)

    def write(self, path: Path) -> Path:
        """Render to one HTML file without references to anything outside it; returns the path."""
        from jinja2 import Environment

        template = resources.files("opsin.tour").joinpath("report.html.jinja").read_text(encoding="utf-8")
        html = (
            Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(report=self)
        )
        with atomic_write(path) as file:
            file.write(html.encode("utf-8"))
        return path
