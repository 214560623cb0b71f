"""Settings of a training run that are the same for every system."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from opsin.data.captioned import open_captioned
from opsin.data.splits import DataConfig
from opsin.errors import ConfigError
from opsin.sources.image_source import ImageSource


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast, and with what to train. A run ends at the first given of epochs, max_steps, max_minutes."""

    epochs: int | None = None
    """Passes over the training data."""
    max_steps: int | None = None
    """Optimiser steps."""
    max_minutes: float | None = None
    """Minutes of wall clock: the whole learning-rate schedule is planned to end by then on this machine."""
    batch_size: int = 128
    """Samples in one optimiser step, over all processes together."""
    accumulate: int = 1
    """Parts into which a batch is cut to save memory; gradients are added up before the step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; vectors (biases, norms, positions) have none."""
    beta2: float = 0.999
    """Decay of AdamW's second moment; the first moment's is 0.9."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises linearly; it then falls to zero along a cosine."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is evaluated and exported; 0 is off."""
    validations: int = 10
    """How many times to validate, evenly spread over the run; the end is always validated. Under a time budget those
    that would take too much of what is left are passed over."""
    export: Literal["best", "last"] = "best"
    """Which weights become the model: the best by validation, or those of the last step."""
    checkpoint_minutes: float = 2.0
    """Minutes between saved training states; 0 saves after every step."""
    log_every: int = 20
    """Steps between logged losses."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """auto is bf16 where the hardware has it natively, else 32."""
    seed: int = 0
    """Every random number of the run follows from it."""
    workers: int = 0
    """Processes that read images of sources too large for memory."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""

    def __post_init__(self) -> None:
        if self.epochs is None and self.max_steps is None and self.max_minutes is None:
            raise ConfigError("say how long to train: --epochs, --max-steps or --max-minutes")
        for name in ("epochs", "max_steps", "max_minutes", "batch_size", "accumulate", "learning_rate", "log_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above zero, not {value}")
        for name in ("weight_decay", "grad_clip", "validations", "checkpoint_minutes", "workers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least zero, not {getattr(self, name)}")
        for name in ("warmup", "ema_decay", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
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
