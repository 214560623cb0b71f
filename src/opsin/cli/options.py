"""Options that mean the same in every verb, and the one way in which verbs parse their arguments."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import tyro
from tyro._errors import on_parse_error

from opsin.cli import HELP_ALL, asks_for_help
from opsin.cli import UsageError as UsageError  # verbs find all that they need for their options here
from opsin.cli.help import help_text, options_of
from opsin.cli.refusals import refuse
from opsin.config import Bounds as Bounds
from opsin.errors import ConfigError
from opsin.progress import ConsoleProgress, Progress

if TYPE_CHECKING:
    import torch

OptionsT = TypeVar("OptionsT", bound="SharedOptions")
Flag = tyro.conf.FlagCreatePairsOff[bool]
"""An option that is off unless it is given. A plain `bool` of a config also gets its opposite (`--no-flip`), whatever
its default is in a recipe."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Base of the options of every verb."""

    FIRST: ClassVar[tuple[str, ...]] = ()
    """The options that matter first, which `--help` shows."""
    RENAMED: ClassVar[dict[str, str]] = {}
    """Values by their earlier names, which still work, as `--option=value`, and what is written now."""

    json: Flag = False
    """Print the result as one JSON document."""
    quiet: Flag = False
    """Print the result and errors only: no progress, no hints."""
    offline: Flag = False
    """Open no network connection; what is missing is an error that says where to put it."""

    @cached_property
    def progress(self) -> Progress:
        """Where long calls report: a bar or lines on stderr, or nowhere when the verb is to be quiet."""
        return Progress() if self.quiet else ConsoleProgress()


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SharedOptions):
    """Base of the options of a verb that runs a trained model."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """auto is bf16 where the hardware has it natively, else 32."""


def parse(options_class: type[OptionsT], argv: Sequence[str], prog: str, description: str) -> OptionsT:
    """Read `argv` into `options_class`; nested dataclasses become options without a prefix.

    `--offline` takes effect here, by setting `OPSIN_OFFLINE` and `HF_HUB_OFFLINE` for this process, so call
    it before importing anything that may use the network. Raises SystemExit after printing help, UsageError for
    arguments that cannot be read.
    """
    if asks_for_help(argv):
        first, is_full = options_class.FIRST, HELP_ALL in argv
        print(help_text(options_class, prog, description, first=first, is_full=is_full))
        raise SystemExit(0)
    args = repeat_options(options_class, _by_current_names(argv, options_class.RENAMED))
    with on_parse_error(partial(refuse, options=options_of(options_class), argv=args)):
        options = tyro.cli(options_class, args=args, prog=prog, add_help=False, config=(tyro.conf.OmitArgPrefixes,))
    for option in options_of(options_class):
        for bounds in (extra for extra in option.metadata if isinstance(extra, Bounds) and not option.section):
            try:  # a config in a section has checked itself
                bounds.check(option.flags[-1], getattr(options, option.name))
            except ConfigError as error:
                raise UsageError(str(error)) from error
    go_offline(["--offline"] if options.offline else [])
    return options


def go_offline(argv: Sequence[str]) -> None:
    """Let `--offline`, where it is among the arguments, take effect for this process."""
    if "--offline" in argv:
        os.environ.update(OPSIN_OFFLINE="1", HF_HUB_OFFLINE="1")


def _by_current_names(argv: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    found = list(argv)
    for place, argument in enumerate(argv):
        together = f"{argv[place - 1]}={argument}" if place else ""
        if argument in renamed:
            found[place] = renamed[argument]
        elif together in renamed:
            found[place] = renamed[together].partition("=")[2]
    return found


def repeat_options(options_class: type[Any], argv: Sequence[str]) -> list[str]:
    """The arguments with `--image a b` as `--image a --image b`: an option that can be repeated (`UseAppendAction`)
    takes all values up to the next option.

    Before the positional arguments of a verb it takes one, because what follows may be those.
    """
    options = options_of(options_class)
    repeated = {name for option in options if tyro.conf.UseAppendAction in option.metadata for name in option.flags}
    if not repeated:
        return list(argv)
    switches = {name for option in options if option.is_switch for name in option.flags}
    may_take_more = not any(option.is_positional for option in options)
    given: list[str] = []
    option, has_value = None, False  # the option whose value this argument may be, and whether it has one already
    for place, argument in enumerate(argv):
        if argument == "--":
            return [*given, *argv[place:]]
        if argument.startswith("-") and argument != "-" and not re.fullmatch(r"-\.?\d.*", argument):
            name = argument.split("=")[0].replace("_", "-")
            option = None if name in switches or "=" in argument else name
            has_value = False
        elif option is not None and not has_value:
            has_value = True
        elif option in repeated and may_take_more and argument != "-":
            given.append(option)
        else:
            option, may_take_more = None, True
        given.append(argument)
    return given


def seeded_generator(seed: int) -> torch.Generator:
    """The random numbers that `--seed` asks for; UsageError when torch has no such seed."""
    import torch

    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"--seed must be from -2^63 to 2^64 - 1, not {seed}")
    return torch.Generator().manual_seed(seed)
