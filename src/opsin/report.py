"""Reports with figures, as one self-contained HTML file: of a tour, and of a training run."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from opsin.files import atomic_write
from opsin.pictures import png_of

MEASURED, REPEAT = "What was measured", "Repeat it"
"""Titles of tables and commands."""


def machine(environment: Mapping[str, Any]) -> str:
    """The machine and the versions of `opsin.runtime.describe_environment`, in a line."""
    packages = environment.get("packages", {})
    parts = [f"{environment.get('cpu', 'unknown processor')}, {environment.get('cpu_threads', '?')} threads"]
    parts += [str(gpu) for gpu in environment.get("gpus", ())]
    return ", ".join(parts) + f" · opsin {packages.get('opsin', '?')}, torch {packages.get('torch', '?')}"


def spread(places: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """At most `count` of the places, evenly spread."""
    return [int(places[round(index)]) for index in np.linspace(0, len(places) - 1, min(count, len(places)))]


@dataclass(frozen=True)
class Picture:
    """A figure, or the content of a PNG file, with the sentence below it; the sentence is also what a screen reader
    says."""

    figure: Figure | bytes
    caption: str

    @property
    def data_uri(self) -> str:
        """The figure as a PNG inside an address, so that the report needs no other file."""
        content = self.figure if isinstance(self.figure, bytes) else png_of(self.figure)
        return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A small table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a report; what is empty is not shown."""

    title: str
    introduction: str
    table: Table | None = None
    table_title: str = ""
    limits: str = ""
    """What the numbers do not say."""
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()
    commands_title: str = ""


@dataclass(frozen=True)
class Report:
    """All sections, below a title, a line that says when and on what they were made, and an introduction."""

    title: str
    made: str
    introduction: str
    sections: Sequence[Section]

    def write(self, path: Path) -> Path:
        """Render to one HTML file without references to anything outside it, atomically; returns the path."""
        from jinja2 import Environment

        template = resources.files("opsin").joinpath("report.html.jinja").read_text(encoding="utf-8")
        html = (
            Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(report=self)
        )
        with atomic_write(path) as file:
            file.write(html.encode("utf-8", "backslashreplace"))  # paths may hold bytes that are no text
        return path
