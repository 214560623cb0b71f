"""Settings of a classification run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from opsin.errors import ConfigError
from opsin.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of the Vision Transformer; see `opsin.nn.vision_transformer`."""

    patch_size: int = 4
    embed_dim: int = 192
    num_layers: int = 6
    num_heads: int = 4
    dim_feedforward: int = 384
    dropout: float = 0.0
    norm: Literal["post", "pre"] = "pre"
    pool: Literal["mean", "class_token"] = "mean"
    positions: Literal["sinusoidal", "learned"] = "learned"
    stem: Literal["linear", "conv"] = "conv"

    def __post_init__(self) -> None:
        for name in ("patch_size", "embed_dim", "num_layers", "num_heads", "dim_feedforward"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be above zero, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.embed_dim % self.num_heads != 0:
            raise ConfigError(f"embed_dim ({self.embed_dim}) must be divisible by num_heads ({self.num_heads})")
        if self.positions == "sinusoidal" and self.embed_dim % 2 != 0:
            raise ConfigError(f"sinusoidal positions need an even embed_dim, not {self.embed_dim}")
        if self.stem == "conv" and self.patch_size.bit_count() != 1:
            raise ConfigError(f"a conv stem needs a patch_size that is a power of two, not {self.patch_size}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to training images, drawn per sample; see `opsin.data.augment`."""

    flip: bool = True
    """Mirror half of the images. Switch it off where left and right matter (digits, text)."""
    shift: int = 4
    """Largest shift in pixels."""
    augment_ops: int = 0
    """RandAugment-style operations per image."""
    augment_magnitude: float = 0.5
    """Their largest strength, 0 to 1."""
    mixup: float = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0 is off."""
    label_smoothing: float = 0.0
    """Probability spread evenly over all classes in the targets."""

    def __post_init__(self) -> None:
        for name in ("shift", "augment_ops", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least zero, not {getattr(self, name)}")
        for name in ("augment_magnitude", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """A whole run: data, model, augmentation, training."""

    data: str = "emoji"
    """A data source with labels: emoji, cifar10, cifar10:DIR, a directory of class folders, or FILE.parquet."""
    image_size: int = 32
    """Side of the square images that the model sees, in pixels."""
    val_fraction: float = 0.1
    """Share of the training images held out to validate on, when the source has no validation split of its own."""
    max_train: int | None = None
    """Train on the first so many images of a fixed random order only."""
    model: ViTConfig = ViTConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=5)

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.image_size % self.model.patch_size != 0:
            raise ConfigError(
                f"image_size ({self.image_size}) must be divisible by patch_size ({self.model.patch_size})"
            )
        if self.augment.shift >= self.image_size:
            raise ConfigError(f"shift ({self.augment.shift}) must be below image_size ({self.image_size})")
        if self.max_train is not None and self.max_train < 1:
            raise ConfigError(f"max_train must be above zero, not {self.max_train}")
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"val_fraction must be at least 0 and below 1, not {self.val_fraction}")
