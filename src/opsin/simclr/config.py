"""Settings of a SimCLR run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from opsin.config import Bounds, Config, Count, Share
from opsin.errors import ConfigError
from opsin.training.config import RunConfig, TrainingConfig, check_contrast, check_heads, check_image_size

LARGEST_SMALL_IMAGE = 63
"""Side in pixels up to which a ResNet has the stem for small images."""


def least_trained_side(image_size: int) -> int:
    """The least side of what a ResNet for images of this size can be trained on, in pixels.

    The last stage has to find maps of 2 x 2 places at least: of its convolutions of 3 x 3 and stride 2 on a single
    place the library that torch computes with on a CPU (oneDNN) gives wrong gradients in bfloat16, up to infinite ones.
    """
    return 5 if image_size <= LARGEST_SMALL_IMAGE else 17


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """The network whose features are kept. What follows the name is the shape of a Vision Transformer only."""

    name: Annotated[Literal["resnet18", "resnet50", "vit"], arg(name="encoder")] = "resnet18"
    """A ResNet has a stem for small images (3 x 3, stride 1, no pooling) below 64 pixels, and the usual one above."""
    patch_size: Count = 4
    embed_dim: Count = 192
    num_layers: Count = 6
    num_heads: Count = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """How the two views of an image are made; each view draws its own changes. See `opsin.simclr.data`."""

    view_size: Annotated[int | None, Bounds()] = None
    """Side of the views in pixels, image_size unless it is given. Smaller views make steps cheaper; from three quarters
    of image_size on things look about as large in them as in whole images, since a view shows a part. For ResNets."""
    min_crop: Annotated[float, Bounds(above=0, most=1)] = 0.08
    """Least share of the image's area that a view shows."""
    flip: bool = True
    """Mirror half of the views. Switch it off where left and right matter (digits, text)."""
    jitter: Share = 0.8
    """Share of the views whose colours change."""
    brightness: Annotated[float, Bounds(0)] = 0.4
    """Largest change of the brightness, as a share of it; likewise the next two."""
    contrast: Annotated[float, Bounds(0)] = 0.4
    saturation: Annotated[float, Bounds(0)] = 0.4
    hue: Annotated[float, Bounds(0, 0.5)] = 0.1
    """Largest turn of the hue, as a share of the circle, up to 0.5."""
    grayscale: Share = 0.2
    """Share of the views without colour."""
    blur: Share = 0.0
    """Share of the views that are blurred, by a standard deviation of 0.1 to 2 pixels at 224 pixels, and in proportion
    at other sizes; of use for larger images only."""


@dataclass(frozen=True, kw_only=True)
class SimclrConfig(RunConfig):
    """A whole run: data, encoder, projection, augmentation, training."""

    temperature: Annotated[float, Bounds(above=0)] = 0.5
    """What cosines are divided by in the loss."""
    projection_dim: Count = 128
    """Width of the vectors that are compared; they are for training only, and the encoder's features are kept."""
    projection_hidden: Count = 512
    """Width of the projection's hidden layer."""
    compile: bool = False
    """Compile the network for this machine first: that takes a minute or two, and pays off in long runs on a GPU."""
    encoder: EncoderConfig = EncoderConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=10, batch_size=256, weight_decay=1e-4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.name == "vit":
            self._check_vit()
        else:
            self._check_resnet()
        check_contrast(self.training)

    def _check_vit(self) -> None:
        check_image_size(self.image_size, self.encoder.patch_size)
        if self.augment.view_size not in (None, self.image_size):
            raise ConfigError(
                f"view_size ({self.augment.view_size}) must be image_size ({self.image_size}) for a Vision "
                "Transformer, which has positions for one size only"
            )

    def _check_resnet(self) -> None:
        least = least_trained_side(self.image_size)
        for name in ("image_size", "view_size"):  # fine-tuning takes crops as large as the images
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} must be at least {least} for a ResNet with images of {self.image_size} pixels, not "
                    f"{getattr(self, name)}: smaller ones leave its last stage a single place to look at"
                )

    @property
    def view_size(self) -> int:
        """Side of the views in pixels."""
        return self.augment.view_size or self.image_size
