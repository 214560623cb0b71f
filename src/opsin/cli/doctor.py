"""`opsin doctor`: what this machine offers, as a table or as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from opsin.cli.options import SharedOptions, parse
from opsin.cli.output import note, show

DESCRIPTION = "Report hardware, versions, native bf16, caches, disk space, and which extras are installed."


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(SharedOptions):
    """Options of `opsin doctor`."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    options = parse(DoctorOptions, argv, "opsin doctor", DESCRIPTION)
    from opsin.doctor import diagnose

    show(diagnose(), options.json)
    next_verbs = "next: opsin tour (trains small models and writes a report), or opsin data list"
    note(next_verbs, options.quiet or options.json)
    return 0
