"""`opsin tour`: train for a moment, show what comes of it and the models of the package, in an illustrated report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsin.cli.options import SharedOptions, parse
from opsin.cli.output import note, print_json


@dataclass(frozen=True, kw_only=True)
class TourOptions(SharedOptions):
    """Options of `opsin tour`."""

    out: Path = Path("opsin-tour")
    """Directory of the report and of the runs behind it."""
    max_minutes: float = 4.5
    """Minutes of training in all; pictures and measurements come on top."""


def main(argv: list[str]) -> int:
    """Run `opsin tour`; the last line on stdout is the path of the report."""
    options = parse(
        TourOptions,
        argv,
        "opsin tour",
        "Train small models, and show what they and the models of the package do, in a report with pictures.",
    )
    from opsin.tour.run import run_tour

    note(f"training on the embedded emoji for about {options.max_minutes:g} minutes", quiet=options.quiet)
    report = run_tour(options.out, training_minutes=options.max_minutes, progress=options.progress)
    if options.json:
        print_json({"report": str(report.resolve())})
    else:
        print(report.resolve())
        note("next: open it in a browser; then opsin train classifier --data SRC --out DIR", quiet=options.quiet)
    return 0
