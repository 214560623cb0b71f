"""Settings of a CLIP run.

Options of the command line are named after fields; those that both towers have carry the tower's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from opsin.errors import ConfigError
from opsin.sources.exclusion import Patterns
from opsin.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig:
    """Shape of the image tower, a Vision Transformer with pre-normalisation and learned positions."""

    patch_size: int = 8
    embed_dim: Annotated[int, arg(name="image.embed_dim")] = 192
    num_layers: Annotated[int, arg(name="image.num_layers")] = 4
    num_heads: Annotated[int, arg(name="image.num_heads")] = 4
    dim_feedforward: Annotated[int, arg(name="image.dim_feedforward")] = 768
    dropout: Annotated[float, arg(name="image.dropout")] = 0.0
    stem: Literal["linear", "conv"] = "conv"
    """The convolutional stem normalises over a batch, and each process of a run over its own part of it."""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """Shape of the text tower, a transformer over sub-words."""

    vocab_size: int = 2048
    """Sub-words to learn from the training captions, at most."""
    max_length: int = 32
    """Sub-words of the longest text, the start token counted; longer texts are cut."""
    embed_dim: Annotated[int, arg(name="text.embed_dim")] = 192
    num_layers: Annotated[int, arg(name="text.num_layers")] = 2
    num_heads: Annotated[int, arg(name="text.num_heads")] = 4
    dim_feedforward: Annotated[int, arg(name="text.dim_feedforward")] = 768
    dropout: Annotated[float, arg(name="text.dropout")] = 0.0


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images and texts are varied; 0 is off. Each image and text draws its own changes."""

    geometry: float = 0.5
    """Strength of turning, scaling, shifting and bending, in 0 to 1."""
    style: float = 0.5
    """Strength of changes of drawing style, in 0 to 1: colours, background, outlines, blur, shading."""
    flip: bool = False
    """Mirror half of the images. Texts that say left or right become wrong by it."""
    word_dropout: float = 0.2
    """Share of the texts of which only some words are shown, rare ones more often."""
    word_shuffle: float = 0.2
    """Share of the texts whose words come in another order."""
    prefix: float = 0.1
    """Share of the texts with words before them that say nothing, as `a photo of a`."""
    subword_dropout: float = 0.1
    """Share of the words that are spelled with other sub-words than usual."""

    def __post_init__(self) -> None:
        for name in ("geometry", "style", "word_dropout", "word_shuffle", "prefix", "subword_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in 0 to 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """A whole run: data, model, augmentation, training."""

    data: str = "emoji"
    """A data source with captions: emoji, coco:DIR, a directory, or FILE.parquet."""
    exclude: Patterns = ()
    """Leave out files and folders that a pattern fits, such as thumbs or *.gif. Can be given several times."""
    image_size: int = 64
    """Side of the square images that the model sees, in pixels."""
    captions: Literal["all", "first"] = "all"
    """Learn from all captions of an image, one drawn at each step, or from its first one only."""
    val_fraction: float = 0.1
    """Share of the training images held out to validate on, when the source has no validation split of its own."""
    test_fraction: float = 0.0
    """Share of the training images held out for the final test, when the source has no test split of its own."""
    train_on: Literal["train", "all"] = "train"
    """With all, the images held out for validation and test are trained on too: nothing tells how well the model does
    on others."""
    held_out_style: str | None = None
    """Drawings of this style are not trained on; those of training images are tested apart, as split other-style. Only
    for sources with drawing styles."""
    max_train: int | None = None
    """Train on so many images at most, drawn at random."""
    max_val: int | None = None
    """Validate on so many images at most, drawn at random."""
    embed_dim: int = 256
    """Width of the space that images and texts share."""
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=10, batch_size=256)

    def __post_init__(self) -> None:
        if self.image_size % self.image.patch_size != 0:
            raise ConfigError(
                f"image_size ({self.image_size}) must be divisible by patch_size ({self.image.patch_size})"
            )
        for name, tower in (("image", self.image), ("text", self.text)):
            if tower.embed_dim % tower.num_heads != 0:
                raise ConfigError(
                    f"{name}: embed_dim ({tower.embed_dim}) must be divisible by num_heads ({tower.num_heads})"
                )
        if self.val_fraction < 0 or self.test_fraction < 0 or self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"val_fraction ({self.val_fraction}) and test_fraction ({self.test_fraction}) must be at least 0 and "
                "together below 1"
            )
        if self.training.accumulate != 1:
            raise ConfigError("accumulate must be 1: parts of a batch would not be compared with each other")
        if self.training.batch_size < 2:
            raise ConfigError("batch_size must be at least 2: an image is compared with the other texts of its batch")
        for name in ("embed_dim", "max_train", "max_val"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
