"""`opsin report RUN`: curves, samples, confusions and settings of a run in one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from opsin.cli.options import ModelOptions, parse
from opsin.cli.output import note, print_json
from opsin.errors import OpsinError
from opsin.systems import load, system_of_kind

if TYPE_CHECKING:
    from opsin.report import Section
    from opsin.training.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class ReportOptions(ModelOptions):
    """Options of `opsin report`."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run directory; the run may still be going on."""
    out: Path | None = None
    """The HTML file to write; by default report.html in the run directory."""


def main(argv: list[str]) -> int:
    """Run `opsin report`; the last line on stdout is the path of the report."""
    options = parse(ReportOptions, argv, "opsin report", "Show a training run in one HTML page with figures.")
    from opsin.training.run_directory import RunDirectory
    from opsin.training.run_report import run_report

    run = RunDirectory(options.run)
    run.read_config()  # what is no run is said before anything takes time
    path = run_report(run, _held_out(run, options)).write(options.out or run.report)
    if options.json:
        print_json({"report": str(path.resolve())})
    else:
        print(path.resolve())
    note("next: open it in a browser", quiet=options.quiet)
    return 0


def _held_out(run: RunDirectory, options: ReportOptions) -> list[Section]:
    """The model on images that it was not trained on, where it has some; the rest of the report needs no data."""
    from opsin.checkpoint import read_model_config
    from opsin.pretrained import load_model

    if not (run.model / "config.json").exists():
        return []
    try:
        section = system_of_kind(str(read_model_config(run.model)["kind"]), run.path).held_out_section
        if not section:
            return []
        return [load(section)(load_model(run.model, options.device, options.precision))]
    except OpsinError as error:
        note(f"without the model on held-out images: {error}", quiet=options.quiet)
        return []
