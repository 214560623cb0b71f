"""Configs between dataclasses and JSON: strict about names and types, clear about what is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.config import Bounds, Config, differences, from_dict, load_json, nearest_name, to_dict
from opsin.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 1
    shape: tuple[int, int] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    count: int | None = None
    kind: Literal["mean", "class_token"] = "mean"
    flag: bool = False
    sizes: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ConfigError("rate must not be negative")


INNERS = st.builds(Inner, width=st.integers(), shape=st.tuples(st.integers(), st.integers()))
OUTERS = st.builds(
    Outer,
    name=st.text(),
    rate=st.floats(0, 1e9),
    count=st.none() | st.integers(),
    kind=st.sampled_from(["mean", "class_token"]),
    flag=st.booleans(),
    sizes=st.lists(st.integers()).map(tuple),
    inner=INNERS,
    maybe=st.none() | INNERS,
    many=st.lists(INNERS, max_size=3).map(tuple),
    free=st.dictionaries(st.text(), st.none() | st.integers() | st.lists(st.booleans())),
)


@given(OUTERS)
def test_survives_json(config: Outer) -> None:
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raet": 1.0}, r"^file: unknown setting 'raet'; did you mean 'rate'\?$"),
        ({"zzz": 1.0}, "unknown setting 'zzz'; known settings: count, flag, free, inner"),
        ({"inner": {"widht": 1}}, r"unknown setting 'inner.widht'; did you mean 'inner.width'\?"),
        ({"maybe": {"widht": 1}}, r"did you mean 'maybe.width'\?"),
        ({"many": [{}, {"widht": 1}]}, r"did you mean 'many.1.width'\?"),
        ({"name": None}, '"name"'),
        ({"name": 3}, '"name" - should be "str"'),
        ({"rate": "fast"}, '"rate" - should be "float"'),
        ({"rate": True}, "'rate' should be a number, not true"),
        ({"count": False}, "'count' should be a number, not false"),
        ({"count": 1.5}, '"count"'),
        ({"flag": 1}, '"flag" - should be "bool"'),
        ({"kind": "max"}, "'kind' should be one of 'mean', 'class_token', not 'max'"),
        ({"sizes": "12"}, "'sizes' should be a list, not '12'"),
        ({"sizes": 3}, "'sizes' should be a list, not 3"),
        ({"sizes": ["a"]}, '"sizes"'),
        ({"inner": 3}, '"inner"'),
        ({"inner": {"shape": [1, 2, 3]}}, "'inner.shape' takes 2 values, not 3"),
        ({"inner": {"width": "wide"}}, '"inner.width"'),
        ({"rate": -1.0}, "rate must not be negative"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_dict(Outer, {"name": "a", **changes}, "file")
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="the setting 'name' is missing"):
        from_dict(Outer, {})


def test_whole_numbers_are_fine_where_fractions_are() -> None:
    config = from_dict(Outer, {"name": "a", "rate": 2})
    assert config.rate == 2.0 and isinstance(config.rate, float)


def test_the_callers_mapping_is_left_alone() -> None:
    mapping = {"name": "a", "sizes": [1, 2], "inner": {"shape": [3, 4]}}
    before = json.dumps(mapping)
    from_dict(Outer, mapping)
    assert json.dumps(mapping) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[1]", "should hold a JSON object, and holds a list"),
    ],
)
def test_files_that_are_no_config(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_json(tmp_path / "config.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_json(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_json(tmp_path)


def test_differences_are_dotted() -> None:
    old = {"a": 1, "b": {"c": 1, "d": 2}, "e": 1, "same": [1]}
    new = {"a": 1, "b": {"c": 2, "d": 2}, "f": 1, "same": [1]}
    assert differences(old, new) == ["b.c", "e", "f"]
    assert differences(old, old) == []


def test_nearest_name() -> None:
    assert nearest_name("emoij-clip", ["emoji-clip", "cifar10-vit"]) == "emoji-clip"
    assert nearest_name("xyz", ["emoji-clip"]) is None
    assert nearest_name("xyz", []) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="is not valid JSON: it is nested too deeply"):
        load_json(tmp_path / "config.json")


@dataclass(frozen=True, kw_only=True)
class Bounded(Config):
    count: Annotated[int | None, Bounds()] = None
    rate: Annotated[float, Bounds(above=0, below=1)] = 0.5
    scales: Annotated[tuple[float, ...], Bounds(-1, 1)] = ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"count": 2**31}, "count must be at most 2147483647, not 2147483648"),
        ({"rate": 0.0}, "rate must be above 0 and below 1, not 0.0"),
        ({"rate": 1.0}, "rate must be above 0 and below 1, not 1.0"),
        ({"rate": float("nan")}, "rate must be above 0 and below 1, not nan"),
        ({"scales": [1.0, -1.5]}, "scales must be at least -1 and at most 1, not -1.5"),
    ],
)
def test_numbers_beyond_their_bounds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^file: {message}$"):
        from_dict(Bounded, settings, where="file")


@given(st.none() | st.integers(1, 2**31 - 1), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_numbers_within_their_bounds_are_kept(count: int | None, rate: float) -> None:
    config = Bounded(count=count, rate=rate, scales=(-1.0, 1.0))
    assert from_dict(Bounded, to_dict(config)) == config
