"""What `--help` and `--help-all` print of a verb: the options that matter first, or all of them, from its dataclass."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from opsin.counts import number_of

SHOWN_FIRST = 5
"""How many options `--help` shows, besides the arguments without a name."""
WIDTH = 80
COLUMN = 24
"""Where the explanations begin."""
SHARED = "opsin.cli.options"
"""The module of the options that verbs share."""


@dataclass(frozen=True)
class Option:
    """An option or an argument without a name (`is_positional`), as it is written on the command line."""

    name: str
    """The name of the field."""
    hint: Any
    """The type that its value has, without annotations."""
    metadata: tuple[Any, ...]
    """What its type is annotated with."""
    default: Any
    """`dataclasses.MISSING` when it has to be given."""
    text: str
    section: str
    """The settings that it belongs to; nothing for the verb's own options."""
    is_shared: bool
    """Whether all verbs have it, or all that run a model."""

    @property
    def is_positional(self) -> bool:
        return tyro.conf.Positional in self.metadata

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_switch(self) -> bool:
        return self.hint is bool

    @property
    def flags(self) -> list[str]:
        """All ways to write it, such as `-k` and `--k`; those of a switch that can be on have its opposite."""
        name = f"--{(self._conf('name') or self.name).replace('_', '-')}"
        opposite = [f"--no-{name[2:]}"] if self.is_switch and tyro.conf.FlagCreatePairsOff not in self.metadata else []
        return [*(self._conf("aliases") or ()), name, *opposite]

    @property
    def value(self) -> str:
        """A word for its value, such as FILE; nothing for a switch."""
        return "" if self.is_switch else self._conf("metavar") or _word(self.hint)

    def explanation(self) -> str:
        """Its text, with what has to be known about its default."""
        remark = self._conf("help_behavior_hint") or ("(required)" if self.is_required else _remark(self))
        return f"{self.text} {remark}".strip()

    def _conf(self, name: str) -> Any:
        return next((found for extra in self.metadata if (found := getattr(extra, name, None)) is not None), None)


def options_of(options_class: type[Any]) -> list[Option]:
    """All options of a verb, those of nested dataclasses among them: its own ones, settings, and what verbs share."""
    found = list(_options_of(options_class, dataclasses.MISSING, ""))
    return sorted(found, key=lambda option: (option.is_shared, bool(option.section)))


def _options_of(kind: type[Any], values: Any, section: str) -> Iterator[Option]:
    """`values` is an instance that has the defaults, or `dataclasses.MISSING`."""
    hints, texts = get_type_hints(kind, include_extras=True), _texts(kind)
    for field in dataclasses.fields(kind):
        hint, metadata = _unwrapped(hints[field.name])
        default = getattr(values, field.name, field.default)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            names = [name for extra in metadata if (name := getattr(extra, "name", None))]
            yield from _options_of(hint, default, names[0] if names else field.name)
        else:
            owner, text = texts.get(field.name, (kind, ""))
            yield Option(field.name, hint, metadata, default, text, section, owner.__module__ == SHARED)


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (get_args(hint)[0], hint.__metadata__) if hasattr(hint, "__metadata__") else (hint, ())


def _texts(kind: type[Any]) -> dict[str, tuple[type, str]]:
    """What stands in the source below each field, without line breaks, and the class that it stands in."""
    texts: dict[str, tuple[type, str]] = {}
    for owner in reversed(kind.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError):  # a class without source, such as `object`
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, below in pairwise([*body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = ""
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    text = str(below.value.value)
                texts[field.target.id] = owner, " ".join(text.split())
    return texts


def help_text(options_class: type[Any], prog: str, description: str, *, first: Sequence[str], is_full: bool) -> str:
    """The help of a verb in at most `WIDTH` columns: arguments without a name, and the options that matter first or all
    of them.

    Args:
        options_class: The dataclass of the verb's options.
        prog: The verb as it is typed, such as `opsin search`.
        description: What the verb does. Its lines stay lines.
        first: The fields that matter first. Options that are required are among them in any case, and of the others as
            many as make `SHOWN_FIRST`.
        is_full: Show all options.
    """
    options = options_of(options_class)
    positional = [option for option in options if option.is_positional]
    named = [option for option in options if not option.is_positional]
    ranked = sorted(named, key=lambda option: (not option.is_required, _rank(option.name, first)))
    shown = named if is_full else ranked[:SHOWN_FIRST]
    lines = [f"usage: {' '.join([prog, *map(_place, positional)])} [OPTIONS]", ""]
    for line in description.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += _wrapped(line, WIDTH, subsequent_indent=f"{indent}  " if indent else "")
    for title, group in groupby([*positional, *shown], key=lambda option: _title(option, is_full)):
        lines += ["", f"{title}:", *(line for option in group for line in _entry(option))]
    if len(shown) < len(named):
        lines += ["", f"{number_of(len(named) - len(shown), 'more option')}: {prog} --help-all"]
    return "\n".join(lines)


def _rank(name: str, first: Sequence[str]) -> int:
    return first.index(name) if name in first else len(first)


def _place(option: Option) -> str:
    """A positional argument in the line of usage."""
    name = option.value + ("…" if get_origin(option.hint) is tuple else "")
    return name if option.is_required else f"[{name}]"


def _title(option: Option, is_full: bool) -> str:
    if option.is_positional:
        return "arguments"
    if not is_full:
        return "options"
    if option.is_shared:
        return "options that verbs share"
    return f"{option.section} options".strip()


def _entry(option: Option) -> list[str]:
    flags = option.flags[: -1 if f"-{option.name}" in option.flags else None]  # -k says it all without --k
    names = option.value if option.is_positional else f"{', '.join(flags)} {option.value}".rstrip()
    text = _wrapped(option.explanation(), WIDTH - COLUMN) or [""]
    if len(names) + 4 > COLUMN:
        return [f"  {names}", *(" " * COLUMN + line for line in text if line)]
    first = f"  {names}".ljust(COLUMN) + text[0]
    return [first.rstrip(), *(" " * COLUMN + line for line in text[1:])]


def _wrapped(text: str, width: int, subsequent_indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=subsequent_indent, break_on_hyphens=False, break_long_words=False
    )


def _word(hint: Any) -> str:
    """What stands for a value of this type: INT, {exact,lancedb}, FLOAT FLOAT."""
    kinds = [kind for kind in get_args(hint) if kind not in (NoneType, Ellipsis)]
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, kinds))}}}"
    if get_origin(hint) is tuple:
        return " ".join(map(_word, kinds))
    return "|".join(map(_word, kinds)) if kinds else str(hint.__name__).upper()


def _remark(option: Option) -> str:
    """The default in brackets, where it says something."""
    default = option.default
    if option.is_switch:
        return f"(default: {option.flags[-1 if not default else -2]})" if len(option.flags) > 1 else ""
    if default in (None, "", ()):
        return ""
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"(default: {shown})"
