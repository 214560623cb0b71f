"""Configs: frozen keyword-only dataclasses, read from and written to JSON with strict keys and types."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import dacite

from opsin.errors import ConfigError, system_errors_as

ConfigT = TypeVar("ConfigT")
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Bounds:
    """Annotates the type of a setting or of an option with the numbers that it takes.

    These are the numbers from `least`, or `above` one, to `most`, or `below` one, and never NaN.
    """

    least: float = 1
    most: float = LARGEST
    above: float | None = None
    below: float | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError for a number beyond the bounds. None is allowed; each number of a tuple is checked."""
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            is_large_enough = number >= self.least if self.above is None else number > self.above
            is_small_enough = number <= self.most if self.below is None else number < self.below
            if not (is_large_enough and is_small_enough):
                raise ConfigError(f"{name} must be {self._range(number)}, not {number}")

    def _range(self, number: float) -> str:
        """The allowed range in words; only the bound that `number` breaks where `most` is not a choice of the field."""
        low = f"at least {self.least:.10g}" if self.above is None else f"above {self.above:.10g}"
        high = f"at most {self.most:.10g}" if self.below is None else f"below {self.below:.10g}"
        if self.below is None and self.most >= LARGEST:
            return high if number > self.most else low
        return f"{low} and {high}"


Count = Annotated[int, Bounds()]
Share = Annotated[float, Bounds(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of configs. Numbers beyond the `Bounds` of their fields are refused by the name that the option has."""

    def __post_init__(self) -> None:
        for field, hint in get_type_hints(type(self), include_extras=True).items():
            extras = getattr(hint, "__metadata__", ())
            name = next((extra.name for extra in extras if getattr(extra, "name", None)), field)  # of `tyro.conf.arg`
            for bounds in (extra for extra in extras if isinstance(extra, Bounds)):
                bounds.check(name, getattr(self, field))


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most like `name`, or None if none comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def parse_json(text: str | bytes) -> Any:
    """What JSON text holds. Raises ValueError for anything else, and for text that is nested too deeply to read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_digest(content: Any) -> str:
    """SHA-256, in hexadecimal, of JSON types."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance as a dictionary of JSON types (tuples become lists)."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(config_class: type[ConfigT], mapping: Mapping[str, Any], where: str = "config") -> ConfigT:
    """Build a dataclass from a mapping. `where` names the origin in error messages.

    Raises ConfigError for an unknown key (naming the nearest known one), a missing key, a wrong type, or a
    value that the dataclass itself refuses.
    """
    content = _prepared_fields(config_class, mapping, where, prefix="")
    try:
        return dacite.from_dict(config_class, content, dacite.Config(strict=True))
    except dacite.MissingValueError as error:
        raise ConfigError(f"{where}: the setting {error.field_path!r} is missing") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except dacite.DaciteError as error:
        raise ConfigError(f"{where}: {str(error)[:300]}") from error


def load_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object from a file; ConfigError when it is absent or is no JSON object."""
    with system_errors_as(ConfigError, f"{path} cannot be read"):
        text = Path(path).read_bytes()
    try:
        content = parse_json(text.decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} should hold a JSON object, and holds a {type(content).__name__}")
    return content


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two config dictionaries differ."""
    names: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            names.append(prefix + key)
    return names


def _prepared_fields(config_class: type, mapping: Mapping[str, Any], where: str, prefix: str) -> dict[str, Any]:
    """The values of a mapping as the dataclass wants them; ConfigError for a key that it does not have."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    hints = get_type_hints(config_class)
    for key in mapping:
        if key not in fields:
            near = nearest_name(key, fields)
            hint = f"did you mean {prefix + near!r}?" if near else f"known settings: {', '.join(sorted(fields))}"
            raise ConfigError(f"{where}: unknown setting {prefix + key!r}; {hint}")
    return {key: _prepared(hints[key], value, where, prefix + key) for key, value in mapping.items()}


def _prepared(hint: Any, value: Any, where: str, name: str) -> Any:
    """A JSON value with lists turned into the tuples, and whole numbers into the floats, that the type asks for."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(value, Mapping):
        nested = [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
        return _prepared_fields(nested[0], value, where, f"{name}.") if nested else value
    if choices := [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]:
        if value not in choices and not (value is None and type(None) in kinds):
            raise ConfigError(f"{where}: {name!r} should be one of {', '.join(map(repr, choices))}, not {value!r}")
        return value
    if shapes := [get_args(kind) for kind in kinds if get_origin(kind) is tuple]:
        if not isinstance(value, (list, tuple)):
            if value is None and type(None) in kinds:
                return None
            raise ConfigError(f"{where}: {name!r} should be a list, not {value!r}")
        items = shapes[0][:1] * len(value) if shapes[0][-1] is Ellipsis else shapes[0]
        if len(items) != len(value):
            raise ConfigError(f"{where}: {name!r} takes {len(items)} values, not {len(value)}")
        return tuple(
            _prepared(kind, item, where, f"{name}.{index}")
            for index, (kind, item) in enumerate(zip(items, value, strict=True))
        )
    if isinstance(value, bool) and bool not in kinds and (int in kinds or float in kinds):
        # Python counts booleans among the integers; in a config one in place of a number is a mistake.
        raise ConfigError(f"{where}: {name!r} should be a number, not {str(value).lower()}")
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    return value
