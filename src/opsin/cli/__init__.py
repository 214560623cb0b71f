"""The command line: a thin shell over the library, one file a verb."""

from __future__ import annotations

from collections.abc import Sequence

HELP = ("-h", "--help")
"""What asks for help on the options that matter first."""
HELP_ALL = "--help-all"
"""What asks for help on all options."""


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether help is wanted, in place of what the arguments say."""
    before_names = argv[: argv.index("--")] if "--" in argv else argv
    return not {*HELP, HELP_ALL}.isdisjoint(before_names)


class UsageError(Exception):
    """The arguments parse but make no sense together; the command prints the message and exits with 2."""
