"""What a model keeps of the run that made it: its settings, and a digest of the images that were divided for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from opsin.config import from_dict, to_dict

SOURCE_DIGEST = "source_digest"

ConfigT = TypeVar("ConfigT")


def training_record(config: Any, source_digest: str | None) -> dict[str, Any]:
    """The `training` of a model, as JSON types: the config of its run, and `opsin.data.splits.split_digest` of its
    source, or None where that holds no images."""
    return {**to_dict(config), SOURCE_DIGEST: source_digest}


def config_of(config_class: type[ConfigT], training: Mapping[str, Any]) -> ConfigT:
    """The config in a model's `training`. Raises ConfigError when it is of another kind."""
    settings = {name: value for name, value in training.items() if name != SOURCE_DIGEST}
    return from_dict(config_class, settings, where="the model's training config")


def run_of(config_class: type[ConfigT], training: Mapping[str, Any]) -> tuple[ConfigT | None, str | None]:
    """The config of the run that made a model and the digest of its source, each None where it is not known."""
    if "data" not in training:
        return None, None
    return config_of(config_class, training), training.get(SOURCE_DIGEST)


def source_foundation(source_digest: str | None) -> dict[str, str]:
    """What a run builds on, for `Task.foundations`: its source, unless that holds no images."""
    return {} if source_digest is None else {"set of images": source_digest}
