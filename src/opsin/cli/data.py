"""`opsin data list|prepare|check`: which sources there are, getting them ready, and looking one over."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from opsin.cli import HELP, HELP_ALL
from opsin.cli.options import SharedOptions, UsageError, parse
from opsin.cli.output import note, print_json, show
from opsin.config import nearest_name
from opsin.sources.exclusion import Patterns

YEAR = re.compile(r"(19|20)\d\d([01]\d([0-3]\d)?)?(?![^\W_])")
"""How the names of folders by years, months and days begin: 2019, 2019-06 Rome, 20190624."""


@dataclass(frozen=True, kw_only=True)
class ListOptions(SharedOptions):
    """Options of `opsin data list`."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(SharedOptions):
    """Options of `opsin data prepare`."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The name of a source, such as emoji or cifar10."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(SharedOptions):
    """Options of `opsin data check`."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A data source: emoji, cifar10, cifar10:DIR, a directory, or FILE.parquet."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""


def main(argv: list[str]) -> int:
    """Run `opsin data`; returns the exit code."""
    if not argv:
        raise UsageError("say what to do: opsin data list, opsin data prepare NAME, or opsin data check SRC")
    if argv[0] in (*HELP, HELP_ALL):
        print("usage: opsin data list | prepare NAME | check SRC\n")
        print("list says which sources there are, prepare builds or downloads one, check looks one over.")
        return 0
    if argv[0] not in ACTIONS:
        near = nearest_name(argv[0], ACTIONS)
        raise UsageError(
            f"unknown action {argv[0]!r}; " + (f"did you mean {near!r}?" if near else f"there are {', '.join(ACTIONS)}")
        )
    return ACTIONS[argv[0]](argv[1:])


def _list(argv: list[str]) -> int:
    options = parse(ListOptions, argv, "opsin data list", "Data sources that opsin can read.")
    from opsin.sources.prepare import list_sources

    show(list_sources(), options.json)
    return 0


def _prepare(argv: list[str]) -> int:
    options = parse(
        PrepareOptions,
        argv,
        "opsin data prepare",
        "Build or download a source, so that it is there when needed.",
    )
    from opsin.sources.prepare import prepare_source

    directory = prepare_source(options.source, progress=options.progress)
    if options.json:
        print_json({"source": options.source, "directory": str(directory)})
    else:
        print(f"{options.source} is ready in {directory}")
        note(f"next: opsin data check {options.source}", quiet=options.quiet)
    return 0


def _check(argv: list[str]) -> int:
    options = parse(CheckOptions, argv, "opsin data check", "Decode every image of a source and report what is there.")
    from opsin.sources.check import check_source
    from opsin.sources.opening import open_source

    report = check_source(open_source(options.source, exclude=options.exclude), progress=options.progress)
    show(report, options.json)
    if report.classes and not options.json:
        source = shlex.quote(options.source)
        by_date = all(map(YEAR.match, report.classes))  # folders of photographs, which no network tells apart
        following = f"index {source} --out INDEX" if by_date else f"train vit --data {source} --out RUN"
        note(f"next: opsin {following}", quiet=options.quiet)
    return 0


ACTIONS: dict[str, Callable[[list[str]], int]] = {"list": _list, "prepare": _prepare, "check": _check}
