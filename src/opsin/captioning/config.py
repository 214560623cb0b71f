"""Settings of a captioning run.

Options of the command line are named after fields; those that encoder and decoder both have carry the part's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from tyro.conf import arg

from opsin.captioning.vocabulary import tokenise
from opsin.config import Bounds, Config, Count, Share
from opsin.data.captioned import open_captioned
from opsin.data.splits import Rows, rows_of_run, rows_of_some_styles
from opsin.errors import ConfigError
from opsin.sources.image_source import ImageSource
from opsin.training.config import TestedConfig, TrainingConfig, check_heads, check_image_size, check_stem


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Shape of the image encoder, a Vision Transformer with pre-normalisation and learned positions.

    With no layers and the convolutional stem it is a small convolutional network.
    """

    patch_size: Count = 8
    embed_dim: Annotated[int, Bounds(), arg(name="encoder.embed_dim")] = 192
    num_layers: Annotated[int, Bounds(0), arg(name="encoder.num_layers")] = 4
    num_heads: Annotated[int, Bounds(), arg(name="encoder.num_heads")] = 4
    dim_feedforward: Annotated[int, Bounds(), arg(name="encoder.dim_feedforward")] = 384
    dropout: Annotated[float, Bounds(0, below=1), arg(name="encoder.dropout")] = 0.1
    stem: Literal["linear", "conv"] = "conv"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Shape of the decoder; see `opsin.captioning.model`."""

    embed_dim: Annotated[int, Bounds(), arg(name="decoder.embed_dim")] = 192
    num_layers: Annotated[int, Bounds(), arg(name="decoder.num_layers")] = 3
    num_heads: Annotated[int, Bounds(), arg(name="decoder.num_heads")] = 4
    dim_feedforward: Annotated[int, Bounds(), arg(name="decoder.dim_feedforward")] = 768
    dropout: Annotated[float, Bounds(0, below=1), arg(name="decoder.dropout")] = 0.1
    pre_norm: bool = True
    tie_weights: bool = True
    max_length: Annotated[int, Bounds(3)] = 32
    """Tokens of the longest caption, `<START>` and `<END>` counted; longer ones are cut."""


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig(TestedConfig):
    """A whole run: data, model, augmentation, training."""

    data: str = "emoji"
    """A data source with captions: emoji, coco:DIR, course-coco:DIR, a directory, or FILE.parquet."""
    min_count: Count = 1
    """Words that occur less often in the training captions are not learned."""
    texts: str = ""
    """A file of further captions without images, one a line, or JSON lines with `captions`: at every step the decoder
    learns to go on with as many of them as of captions of images, and their words are learned as well. They must not be
    captions of the images that test the model."""
    style_fraction: Share = 0.0
    """Share of the training emoji of which one of the two drawing styles is not trained on; the final test looks at
    these drawings apart. Only for sources with drawing styles."""
    frozen_encoder: str | None = None
    """Let this encoder look at the images instead of one that is trained along: timm:NAME, open_clip:ARCHITECTURE/TAG,
    emoji-clip, or the directory of a classifier or of a model of images and texts. It is never changed, and encodes
    each image once, as its own preprocessing says: image_size, flip and shift are not used."""
    encoder: EncoderConfig = EncoderConfig()
    """Not used with a frozen encoder or features (course-coco:DIR)."""
    decoder: DecoderConfig = DecoderConfig()
    flip: bool = False
    """Mirror half of the images. Captions that say left or right become wrong by it."""
    shift: Annotated[int, Bounds(0)] = 0
    """Largest shift in pixels."""
    augment_ops: Annotated[int, Bounds(0)] = 0
    """RandAugment-style operations per image."""
    augment_magnitude: Share = 0.5
    """Their largest strength, 0 to 1."""
    label_smoothing: Share = 0.0
    """Probability spread evenly over all words in the targets."""
    word_loss: Annotated[float, Bounds(0)] = 0.0
    """Weight of a second loss: the words of the caption, in any order, from the mean image vector alone."""
    beams: Count = 3
    """Beams of the final test; validation is greedy."""
    training: TrainingConfig = TrainingConfig(max_minutes=5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.encoder, "encoder: ")
        check_heads(self.decoder, "decoder: ")
        check_stem(self.encoder)
        check_image_size(self.image_size, self.encoder.patch_size, self.shift)
        if self.decoder.embed_dim % 2 != 0:
            raise ConfigError(f"decoder: embed_dim must be even, not {self.decoder.embed_dim}")
        if self.style_fraction > 0 and self.max_train is not None:
            raise ConfigError("style_fraction needs every emoji in training; leave max_train out")

    def open(self, *, to_train: bool = True) -> ImageSource:
        return open_captioned(self.data, self.captions, self.exclude, is_usable=tokenise)

    def rows(self, source: ImageSource) -> Rows:
        """`other-style` are drawings of emoji that are trained on as the other style draws them."""

        def some_styles(rows: np.ndarray) -> np.ndarray:
            return rows_of_some_styles(source, rows, self.style_fraction, self.seed)

        return rows_of_run(
            source,
            self,
            test_fraction=self.test_fraction,
            max_val=self.max_val,
            hold_out=some_styles if self.style_fraction > 0 else None,
        )
