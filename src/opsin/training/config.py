"""Settings of a training run that are the same for every system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from opsin.config import Bounds, Config, Count
from opsin.data.captioned import open_captioned
from opsin.data.splits import DataConfig
from opsin.errors import ConfigError
from opsin.images.preprocessing import ImageSize
from opsin.sources.image_source import ImageSource


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How long, how fast, and with what to train. A run ends at the first given of epochs, max_steps, max_minutes."""

    epochs: Annotated[int | None, Bounds()] = None
    """Passes over the training data."""
    max_steps: Annotated[int | None, Bounds()] = None
    """Optimiser steps."""
    max_minutes: Annotated[float | None, Bounds(above=0)] = None
    """Minutes of wall clock: the whole learning-rate schedule is planned to end by then on this machine."""
    batch_size: Count = 128
    """Samples in one optimiser step, over all processes together."""
    accumulate: Count = 1
    """Parts into which a batch is cut to save memory; gradients are added up before the step."""
    learning_rate: Annotated[float, Bounds(above=0)] = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Bounds(0)] = 0.05
    """Decoupled weight decay of matrices; vectors (biases, norms, positions) have none."""
    beta2: Annotated[float, Bounds(0, below=1)] = 0.999
    """Decay of AdamW's second moment; the first moment's is 0.9."""
    warmup: Annotated[float, Bounds(0, below=1)] = 0.05
    """Share of the run in which the learning rate rises linearly; it then falls to zero along a cosine."""
    grad_clip: Annotated[float, Bounds(0)] = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    ema_decay: Annotated[float, Bounds(0, below=1)] = 0.0
    """Decay of the moving average of the weights that is evaluated and exported; 0 is off."""
    validations: Annotated[int, Bounds(0)] = 10
    """How many times to validate, evenly spread over the run; the end is always validated. Under a time budget those
    that would take too much of what is left are passed over."""
    export: Literal["best", "last"] = "best"
    """Which weights become the model: the best by validation, or those of the last step."""
    checkpoint_minutes: Annotated[float, Bounds(0)] = 2.0
    """Minutes between saved training states; 0 saves after every step."""
    log_every: Count = 20
    """Steps between logged losses."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """auto is bf16 where the hardware has it natively, else 32."""
    seed: int = 0
    """Every random number of the run follows from it."""
    workers: Annotated[int, Bounds(0)] = 0
    """Processes that read images of sources too large for memory."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is None and self.max_steps is None and self.max_minutes is None:
            raise ConfigError("say how long to train: --epochs, --max-steps or --max-minutes")
        if self.batch_size % self.accumulate != 0:
            raise ConfigError(f"batch_size ({self.batch_size}) must be divisible by accumulate ({self.accumulate})")


@dataclass(frozen=True, kw_only=True)
class RunConfig(DataConfig):
    """What the configs of all systems have in common: data and training."""

    training: TrainingConfig = TrainingConfig(max_minutes=10)

    @property
    def seed(self) -> int:
        return self.training.seed


@dataclass(frozen=True, kw_only=True)
class CaptionedConfig(RunConfig):
    """What the configs of systems that learn from captions have in common."""

    data: str = "emoji"
    """A data source with captions: emoji, coco:DIR, a directory, or FILE.parquet."""
    captions: Literal["all", "first"] = "all"
    """Learn from all captions of an image, one drawn at each step, or from its first one only."""

    def open(self, *, to_train: bool = True) -> ImageSource:
        return open_captioned(self.data, self.captions, self.exclude)


@dataclass(frozen=True, kw_only=True)
class TestedConfig(CaptionedConfig):
    """What the configs of systems that are tested at the end of a run have in common."""

    __test__ = False  # it is no class of tests, as pytest would think by its name

    image_size: ImageSize = 64
    """Side of the square images that the model sees, in pixels."""
    test_fraction: Annotated[float, Bounds(0, below=1)] = 0.0
    """Share of the training images held out for the final test, when the source has no test split of its own."""
    max_val: Annotated[int | None, Bounds()] = None
    """Validate on so many images at most, drawn at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"val_fraction ({self.val_fraction}) and test_fraction ({self.test_fraction}) must be together below 1"
            )


def check_heads(layers: Any, part: str = "") -> None:
    """Raise ConfigError unless the width of Transformer layers divides by their heads; `part` stands before it."""
    if layers.embed_dim % layers.num_heads != 0:
        raise ConfigError(f"{part}embed_dim ({layers.embed_dim}) must be divisible by num_heads ({layers.num_heads})")


def check_stem(layers: Any) -> None:
    """Raise ConfigError unless the stem makes patches of this size."""
    if layers.stem == "conv" and layers.patch_size.bit_count() != 1:
        raise ConfigError(f"a conv stem needs a patch_size that is a power of two, not {layers.patch_size}")


def check_image_size(image_size: int, patch_size: int, shift: int = 0) -> None:
    """Raise ConfigError unless images of this size are whole patches, and more than what a shift moves them by."""
    if image_size % patch_size != 0:
        raise ConfigError(f"image_size ({image_size}) must be divisible by patch_size ({patch_size})")
    if shift >= image_size:
        raise ConfigError(f"shift ({shift}) must be below image_size ({image_size})")


def check_contrast(training: TrainingConfig) -> None:
    """Raise ConfigError unless each sample of a step is compared with all others of its batch, and there are some."""
    if training.accumulate != 1:
        raise ConfigError("accumulate must be 1: parts of a batch would not be compared with each other")
    if training.batch_size < 2:
        raise ConfigError("batch_size must be at least 2: a sample is compared with the others of its batch")
