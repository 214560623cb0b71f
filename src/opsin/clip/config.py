"""Settings of a CLIP run.

Options of the command line are named after fields; those that both towers have carry the tower's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from tyro.conf import arg

from opsin.config import Bounds, Config, Count, Share
from opsin.data.splits import Rows, rows_of_run, rows_of_style
from opsin.errors import ConfigError
from opsin.sources.image_source import ImageSource
from opsin.training.config import (
    TestedConfig,
    TrainingConfig,
    check_contrast,
    check_heads,
    check_image_size,
    check_stem,
)


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig(Config):
    """Shape of the image tower, a Vision Transformer with pre-normalisation and learned positions."""

    patch_size: Count = 8
    embed_dim: Annotated[int, Bounds(), arg(name="image.embed_dim")] = 192
    num_layers: Annotated[int, Bounds(0), arg(name="image.num_layers")] = 4
    num_heads: Annotated[int, Bounds(), arg(name="image.num_heads")] = 4
    dim_feedforward: Annotated[int, Bounds(), arg(name="image.dim_feedforward")] = 768
    dropout: Annotated[float, Bounds(0, below=1), arg(name="image.dropout")] = 0.0
    stem: Literal["linear", "conv"] = "conv"
    """The convolutional stem normalises over a batch, and each process of a run over its own part of it."""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig(Config):
    """Shape of the text tower."""

    kind: Annotated[Literal["transformer", "words"], arg(name="text.kind")] = "transformer"
    """A transformer over sub-words, or only their mean, weighted by how much each says: less to learn from few
    captions."""
    vocab_size: int = 2048
    """Sub-words to learn from the training captions, at most."""
    max_length: Count = 32
    """Sub-words of the longest text, the start token counted; longer texts are cut."""
    embed_dim: Annotated[int, Bounds(), arg(name="text.embed_dim")] = 192
    num_layers: Annotated[int, Bounds(0), arg(name="text.num_layers")] = 2
    num_heads: Annotated[int, Bounds(), arg(name="text.num_heads")] = 4
    dim_feedforward: Annotated[int, Bounds(), arg(name="text.dim_feedforward")] = 768
    dropout: Annotated[float, Bounds(0, below=1), arg(name="text.dropout")] = 0.0


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """How training images and texts are varied; 0 is off. Each image and text draws its own changes."""

    geometry: Share = 0.5
    """Strength of turning, scaling, shifting and bending, in 0 to 1."""
    style: Share = 0.5
    """Strength of changes of drawing style, in 0 to 1: colours, background, outlines, blur, shading."""
    flip: bool = False
    """Mirror half of the images. Texts that say left or right become wrong by it."""
    word_dropout: Share = 0.2
    """Share of the texts of which only some words are shown, rare ones more often."""
    word_shuffle: Share = 0.2
    """Share of the texts whose words come in another order."""
    prefix: Share = 0.1
    """Share of the texts with words before them that say nothing, as `a photo of a`."""
    subword_dropout: Share = 0.1
    """Share of the words that are spelled with other sub-words than usual."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig(TestedConfig):
    """A whole run: data, model, augmentation, training."""

    train_on: Literal["train", "all"] = "train"
    """With all, the images held out for validation and test are trained on too: nothing tells how well the model does
    on others."""
    held_out_style: str | None = None
    """Drawings of this style are not trained on; those of training images are tested apart, as split other-style. Only
    for sources with drawing styles."""
    embed_dim: Count = 256
    """Width of the space that images and texts share."""
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    image_encoder: str = ""
    """In place of an image tower of its own: a pretrained encoder, such as imagenet, timm:NAME, or a run. Its vectors
    are computed once."""
    lock_image: bool = False
    """Leave the image encoder as it is, and learn the text tower and the maps into the common space only (LiT)."""
    texts: str = ""
    """A file of further captions without images, one a line, or JSON lines with `captions`: words are learned from
    them as well."""
    class_names: bool = False
    """Learn the names of the classes that the image encoder knows, and of groups of them, as well; for imagenet."""
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=10, batch_size=256)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.image, "image: ")
        check_heads(self.text, "text: ")
        check_stem(self.image)
        check_image_size(self.image_size, self.image.patch_size)
        if bool(self.image_encoder) != self.lock_image:
            raise ConfigError(
                "--image-encoder and --lock-image go together: an encoder that is not locked would have to be trained "
                "along, which takes far more images than most people have"
            )
        if self.class_names and not self.lock_image:
            raise ConfigError("--class-names needs the classes of an image encoder; give --image-encoder imagenet")
        check_contrast(self.training)

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
