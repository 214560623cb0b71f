"""What a model keeps of the run that made it: its settings, and a digest of the images that were divided for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from opsin.config import from_dict, to_dict
from opsin.data.splits import division_digest
from opsin.sources.image_source import ImageSource

SOURCE_DIGEST = "source_digest"

ConfigT = TypeVar("ConfigT")


def training_record(config: Any, source_digest: str | None) -> dict[str, Any]:
    """The `training` of a model, as JSON types: the config of its run, and `opsin.data.splits.division_digest` of its
    source, or None where that holds no images."""
    return {**to_dict(config), SOURCE_DIGEST: source_digest}


def config_of(config_class: type[ConfigT], training: Mapping[str, Any]) -> ConfigT:
    """The config in a model's `training`. Raises ConfigError when it is of another kind."""
    settings = {name: value for name, value in training.items() if name != SOURCE_DIGEST}
    return from_dict(config_class, settings, where="the model's training config")


def has_changed(source: ImageSource, training: Mapping[str, Any]) -> bool:
    """Whether a source has other images than when the model of this record was trained on it; False where the record
    does not say."""
    known = training.get(SOURCE_DIGEST)
    return known is not None and known != division_digest(source)


def source_foundation(source_digest: str | None) -> dict[str, str]:
    """What a run builds on, for `Task.foundations`: its source, unless that holds no images."""
    return {} if source_digest is None else {"set of images": source_digest}
