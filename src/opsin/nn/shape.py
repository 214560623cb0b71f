"""Whether the settings of a Transformer and its patches fit together, said in the words of a run's options."""

from __future__ import annotations

from typing import Any

from opsin.config import check_numbers
from opsin.errors import ConfigError


def check_layers(config: Any, *, least_layers: int = 1, part: str = "") -> None:
    """Raise ConfigError unless Transformer layers of these settings can be built; `part` as in `check_numbers`."""
    check_numbers(config, "embed_dim", "num_heads", "dim_feedforward", least=1, part=part)
    check_numbers(config, "num_layers", least=least_layers, part=part)
    check_numbers(config, "dropout", below=1, part=part)
    if config.embed_dim % config.num_heads != 0:
        raise ConfigError(f"{part}embed_dim ({config.embed_dim}) must be divisible by num_heads ({config.num_heads})")


def check_patches(config: Any) -> None:
    """Raise ConfigError unless the stem makes patches of this size."""
    check_numbers(config, "patch_size", least=1)
    if config.stem == "conv" and config.patch_size.bit_count() != 1:
        raise ConfigError(f"a conv stem needs a patch_size that is a power of two, not {config.patch_size}")


def check_image_size(image_size: int, patch_size: int, shift: int) -> None:
    """Raise ConfigError unless images of this size are whole patches, and more than what a shift moves them by."""
    if image_size < 1 or image_size % patch_size != 0:
        raise ConfigError(f"image_size ({image_size}) must be divisible by patch_size ({patch_size})")
    if shift >= image_size:
        raise ConfigError(f"shift ({shift}) must be below image_size ({image_size})")
