"""Settings of a classification run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from opsin.config import Bounds, Config, Count, Share
from opsin.errors import ConfigError
from opsin.images.preprocessing import ImageSize
from opsin.sources.image_source import ImageSource
from opsin.sources.opening import open_labelled
from opsin.training.config import RunConfig, TrainingConfig, check_heads, check_image_size, check_stem


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Config):
    """Shape of the Vision Transformer; see `opsin.nn.vision_transformer`."""

    patch_size: Count = 4
    embed_dim: Count = 192
    num_layers: Count = 6
    num_heads: Count = 4
    dim_feedforward: Count = 384
    dropout: Annotated[float, Bounds(0, below=1)] = 0.0
    norm: Literal["post", "pre"] = "pre"
    pool: Literal["mean", "class_token"] = "mean"
    positions: Literal["sinusoidal", "learned"] = "learned"
    stem: Literal["linear", "conv"] = "conv"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self)
        check_stem(self)
        if self.positions == "sinusoidal" and self.embed_dim % 2 != 0:
            raise ConfigError(f"sinusoidal positions need an even embed_dim, not {self.embed_dim}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """What is done to training images, drawn per sample; see `opsin.images.augment`."""

    flip: bool = True
    """Mirror half of the images. Switch it off where left and right matter (digits, text)."""
    shift: Annotated[int, Bounds(0)] = 4
    """Largest shift in pixels."""
    augment_ops: Annotated[int, Bounds(0)] = 0
    """RandAugment-style operations per image."""
    augment_magnitude: Share = 0.5
    """Their largest strength, 0 to 1."""
    mixup: Annotated[float, Bounds(0)] = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: Annotated[float, Bounds(0)] = 0.0
    """Alpha of CutMix; 0 is off."""
    label_smoothing: Share = 0.0
    """Probability spread evenly over all classes in the targets."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """A run that trains a head for the classes of one's own images on a pretrained encoder."""

    data: str = ""
    """A data source with labels: a directory of class folders, a table, FILE.parquet, emoji, cifar10:DIR."""
    backbone: str = "imagenet"
    """The encoder: imagenet, timm:NAME, open_clip:ARCHITECTURE/TAG, a model that ships with opsin, or a run."""
    tune: Literal["head", "last", "all"] = "head"
    """head fits a linear classifier to what the encoder gives, in seconds; last trains the encoder's last stage as
    well, and all trains the whole encoder: for more images, or images unlike photographs."""
    balance: bool = False
    """Give every class the same weight in training, however many images it has."""
    self_contained: bool = False
    """Keep the encoder's weights in the model's directory; with last and all they always are."""
    image_size: ImageSize = 224
    """Side of the square images that last and all train on, in pixels; a head takes those of the encoder."""
    layer_decay: Annotated[float, Bounds(most=1, above=0)] = 0.75
    """With last and all: each stage of the encoder learns by this factor more slowly than the one after it."""
    augment: AugmentConfig = AugmentConfig(shift=14, augment_ops=1, label_smoothing=0.1)

    def open(self, *, to_train: bool = True) -> ImageSource:
        return open_labelled(self.data, min_classes=2 if to_train else 1, exclude=self.exclude)


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
