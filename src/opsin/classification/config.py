"""Settings of a classification run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opsin.config import check_numbers
from opsin.errors import ConfigError
from opsin.nn.shape import check_image_size, check_layers, check_patches
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled
from opsin.training.config import RunConfig, TrainingConfig


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
        check_layers(self)
        check_patches(self)
        if self.positions == "sinusoidal" and self.embed_dim % 2 != 0:
            raise ConfigError(f"sinusoidal positions need an even embed_dim, not {self.embed_dim}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to training images, drawn per sample; see `opsin.images.augment`."""

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
        check_numbers(self, "shift", "augment_ops", "mixup", "cutmix")
        check_numbers(self, "augment_magnitude", "label_smoothing", most=1)


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(RunConfig):
    """A whole run: data, model, augmentation, training."""

    data: str = "emoji"
    """A data source with labels: emoji, cifar10, cifar10:DIR, a directory of class folders, or FILE.parquet."""
    model: ViTConfig = ViTConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image_size(self.image_size, self.model.patch_size, self.augment.shift)

    def open(self, *, to_train: bool = True) -> ImageSource:
        return open_labelled(self.data, min_classes=2 if to_train else 1, exclude=self.exclude)
