"""Options that mean the same in every verb, and the one way in which verbs parse their arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

OptionsT = TypeVar("OptionsT", bound="SharedOptions")


class UsageError(Exception):
    """The arguments parse but make no sense together; the command prints the message and exits with 2."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Base of the options of every verb."""

    json: bool = False
    """Print the result as one JSON document."""
    quiet: bool = False
    """Print the result and errors only: no progress, no hints."""
    offline: bool = False
    """Open no network connection; what is missing is an error that says where to put it."""


def parse(options_class: type[OptionsT], argv: Sequence[str], prog: str, description: str) -> OptionsT:
    """Read `argv` into `options_class`; nested dataclasses become options without a prefix.

    `--offline` takes effect here, by setting `OPSIN_OFFLINE` and `HF_HUB_OFFLINE` for this process, so call
    it before importing anything that may use the network. Raises SystemExit: 0 after `--help`, 2 for wrong
    usage.
    """
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    options = tyro.cli(options_class, args=list(argv), prog=prog, description=description, config=config)
    if options.offline:
        os.environ.update(OPSIN_OFFLINE="1", HF_HUB_OFFLINE="1")
    return options
