"""What is said of arguments that cannot be read: one sentence, with the option that was probably meant."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from tyro import _errors as failures

from opsin.cli import HELP, HELP_ALL, UsageError
from opsin.config import nearest_name
from opsin.errors import OpsinError
from opsin.files import chain_of

if TYPE_CHECKING:
    from tyro._arguments import ArgumentDefinition

    from opsin.cli.help import Option


def refuse(event: failures.ParseErrorEvent, *, options: Sequence[Option], argv: Sequence[str]) -> NoReturn:
    """Raise UsageError in place of tyro's box with a part of the help. What a config itself refuses is wrong usage."""
    failure = sys.exception()
    for error in chain_of(failure) if failure else ():
        if isinstance(error, OpsinError):
            raise UsageError(str(error)) from error
    reason = _reason(event, options, argv)
    raise UsageError(f"{reason}{' ' if reason.endswith('?') else '; '}'{event.prog} {HELP_ALL}' lists all options")


def _reason(event: failures.ParseErrorEvent, options: Sequence[Option], argv: Sequence[str]) -> str:
    match event:
        case failures.UnrecognizedArgs(tokens=tokens):
            return _unknown(tokens, options)
        case failures.MissingArgs(unrecognized_tokens=tokens):
            missing = f"{' and '.join(_name(missing.arg) for missing in event.missing_arguments)} must be given"
            if not tokens:
                return missing
            is_word = not any(token.startswith("-") for token in tokens)  # an option may be the missing one, mistyped
            return _unknown(tokens, options) + (f"; {missing}" if is_word else "")
        case failures.InvalidChoice():
            near = nearest_name(event.value, event.choices)
            hint = f"; did you mean {near!r}?" if near else ""
            return f"{_name(event.argument)} takes {' or '.join(event.choices)}, not {event.value!r}{hint}"
        case failures.BadValue():
            return f"{_name(event.argument)} needs a value"
        case failures.InstantiationFailure(argument=argument) if argument is not None:
            return _unreadable(argument, options, argv)
    return str(getattr(event, "message", "these arguments do not go together"))


def _unknown(tokens: Sequence[str], options: Sequence[Option]) -> str:
    """The first option among them, or else the first word."""
    token = next((token for token in tokens if token.startswith("-")), tokens[0]).split("=")[0]
    if not token.startswith("-"):
        return f"unexpected argument {token!r}"
    flags = [name for option in options if not option.is_positional for name in option.flags]
    names = {name.lstrip("-"): name for name in [*flags, HELP[-1], HELP_ALL]}
    near = nearest_name(token.lstrip("-").replace("_", "-"), names)
    return f"unknown option {token}" + (f"; did you mean {names[near]}?" if near else "")


def _name(argument: ArgumentDefinition) -> str:
    """An argument as it is typed."""
    return str(argument.lowered.metavar) if argument.is_positional() else str(argument.lowered.name_or_flags[-1])


def _unreadable(argument: ArgumentDefinition, options: Sequence[Option], argv: Sequence[str]) -> str:
    name = _name(argument)
    own = [option for option in options if name in option.flags]
    kinds = set(_leaves(own[0].hint)) if own else set()
    number = float if float in kinds else int
    wrong = [value for value in _values(own[0].flags, argv) if not _reads(number, value)] if own else []
    if not wrong or not kinds & {int, float}:
        return f"{name} has a value that cannot be read"
    return f"{name} takes a {'number' if number is float else 'whole number'}, not {wrong[0]!r}"


def _leaves(hint: Any) -> Iterator[Any]:
    """The types in `tuple[float, ...] | None`, for example."""
    parts = get_args(hint)
    for part in parts:
        yield from _leaves(part)
    if not parts:
        yield hint


def _values(flags: Sequence[str], argv: Sequence[str]) -> Iterator[str]:
    """What the command line gives to an option."""
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") in flags:
            yield from [value] if equals else argv[place + 1 : place + 2]


def _reads(number: type[int] | type[float], value: str) -> bool:
    try:
        number(value)
    except ValueError:
        return False
    return True
