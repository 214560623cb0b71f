"""Settings of a CLIP run.

Options of the command line are named after fields; those that both towers have carry the tower's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from tyro.conf import arg

from opsin.config import check_numbers
from opsin.data.splits import Rows, rows_of_run, rows_of_style
from opsin.errors import ConfigError
from opsin.sources.image_source import ImageSource
from opsin.training.config import CaptionedConfig, TrainingConfig


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
class ClipConfig(CaptionedConfig):
    """A whole run: data, model, augmentation, training."""

    image_size: int = 64
    """Side of the square images that the model sees, in pixels."""
    test_fraction: float = 0.0
    """Share of the training images held out for the final test, when the source has no test split of its own."""
    train_on: Literal["train", "all"] = "train"
    """With all, the images held out for validation and test are trained on too: nothing tells how well the model does
    on others."""
    held_out_style: str | None = None
    """Drawings of this style are not trained on; those of training images are tested apart, as split other-style. Only
    for sources with drawing styles."""
    max_val: int | None = None
    """Validate on so many images at most, drawn at random."""
    embed_dim: int = 256
    """Width of the space that images and texts share."""
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=10, batch_size=256)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.image.patch_size != 0:
            raise ConfigError(
                f"image_size ({self.image_size}) must be divisible by patch_size ({self.image.patch_size})"
            )
        for name, tower in (("image", self.image), ("text", self.text)):
            if tower.embed_dim % tower.num_heads != 0:
                raise ConfigError(
                    f"{name}: embed_dim ({tower.embed_dim}) must be divisible by num_heads ({tower.num_heads})"
                )
        check_numbers(self, "test_fraction", below=1)
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"val_fraction ({self.val_fraction}) and test_fraction ({self.test_fraction}) must be together below 1"
            )
        if self.training.accumulate != 1:
            raise ConfigError("accumulate must be 1: parts of a batch would not be compared with each other")
        if self.training.batch_size < 2:
            raise ConfigError("batch_size must be at least 2: an image is compared with the other texts of its batch")
        check_numbers(self, "embed_dim", "max_val", least=1)

    def rows(self, source: ImageSource) -> Rows:
        """`other-style` are the training images that are drawn in the style held out."""

        def held_out(rows: np.ndarray) -> np.ndarray:
            return rows_of_style(source, rows, str(self.held_out_style))

        return rows_of_run(
            source,
            self,
            test_fraction=self.test_fraction,
            train_on_all=self.train_on == "all",
            max_val=self.max_val,
            hold_out=None if self.held_out_style is None else held_out,
            stream="some",
        )
