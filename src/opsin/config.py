"""Configs: frozen keyword-only dataclasses, read from and written to JSON with strict keys and types."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import dacite

from opsin.errors import ConfigError

ConfigT = TypeVar("ConfigT")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most like `name`, or None if none comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance as a dictionary of JSON types (tuples become lists)."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(config_class: type[ConfigT], mapping: Mapping[str, Any], where: str = "config") -> ConfigT:
    """Build a dataclass from a mapping. `where` names the origin in error messages.

    Raises ConfigError for an unknown key (naming the nearest known one), a missing key, a wrong type, or a
    value that the dataclass itself refuses.
    """
    _refuse_unknown_keys(config_class, mapping, where, prefix="")
    try:
        return dacite.from_dict(config_class, mapping, dacite.Config(cast=[tuple], strict=True))
    except dacite.MissingValueError as error:
        raise ConfigError(f"{where}: the setting {error.field_path!r} is missing") from error
    except dacite.DaciteError as error:
        raise ConfigError(f"{where}: {str(error)[:300]}") from error


def load_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object from a file; ConfigError when it is absent or is no JSON object."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
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


def _refuse_unknown_keys(config_class: type, mapping: Mapping[str, Any], where: str, prefix: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for key, value in mapping.items():
        if key not in fields:
            near = nearest_name(key, fields)
            hint = f"did you mean {prefix + near!r}?" if near else f"known settings: {', '.join(sorted(fields))}"
            raise ConfigError(f"{where}: unknown setting {prefix + key!r}; {hint}")
        nested = _resolved_types(config_class).get(key)
        if dataclasses.is_dataclass(nested) and isinstance(nested, type) and isinstance(value, Mapping):
            _refuse_unknown_keys(nested, value, where, prefix=f"{prefix}{key}.")


def _resolved_types(config_class: type) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(config_class)
