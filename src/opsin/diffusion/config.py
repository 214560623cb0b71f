"""Settings of a diffusion run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from opsin.config import Bounds, Config, Count, Share
from opsin.data.splits import Rows, rows_of_run
from opsin.diffusion.gaussian_diffusion import BetaSchedule, Objective, make_betas
from opsin.errors import ConfigError
from opsin.sources.image_source import ImageSource
from opsin.training.config import CaptionedConfig, TrainingConfig

GuidanceScale = Annotated[float, Bounds(-1e6, 1e6)]


@dataclass(frozen=True, kw_only=True)
class UnetConfig(Config):
    """Shape of the network; see `opsin.diffusion.unet`."""

    dim: Annotated[int, Bounds(4)] = 48
    """Width at full resolution."""
    dim_mults: Annotated[tuple[int, ...], Bounds()] = (1, 2, 4, 8)
    """Width, in units of dim, after each halving of the resolution."""
    patch_size: Count = 1
    """Pixels to a side of the squares that the network takes as one; 2 leaves a quarter of the arithmetic."""
    uncond_prob: Share = 0.1
    """Share of the training texts that are left out, so that the network also learns to do without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 2 != 0:
            raise ConfigError(f"dim must be an even number, not {self.dim}")
        if not self.dim_mults:
            raise ConfigError("dim_mults must be one or more numbers")


@dataclass(frozen=True, kw_only=True)
class ProcessConfig(Config):
    """The diffusion process; see `opsin.diffusion.gaussian_diffusion`."""

    timesteps: Annotated[int, Bounds(1, 100_000)] = 100
    """Time steps of the noise schedule."""
    objective: Objective = "pred_v"
    """What the network predicts: the noise, the image, or the velocity between the two."""
    beta_schedule: BetaSchedule = "sigmoid"
    min_snr_gamma: Annotated[float | None, Bounds(above=0)] = None
    """Weigh the time steps by min(SNR, this) (usually 5), instead of as the objective has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        make_betas(self.beta_schedule, self.timesteps)  # refuses here what training or drawing would refuse later


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(CaptionedConfig):
    """A whole run: data, text encoder, network, process, training."""

    text_encoder: str = "emoji-clip"
    """What turns prompts into vectors: a model with a text encoder (open_clip:ARCHITECTURE/TAG, a zoo name, a run or
    model directory), or a table of embeddings that were computed before (FILE.pt, as the course's)."""
    train_on: Literal["train", "all"] = "train"
    """With all, the images held out for validation and test are trained on too: nothing tells how well the model does
    on others."""
    flip: bool = False
    """Mirror half of the images. Texts that say left or right become wrong by it."""
    sample_guidance: GuidanceScale = 2.0
    """Guidance scale of the sample pictures that are drawn during training."""
    model: UnetConfig = UnetConfig()
    process: ProcessConfig = ProcessConfig()
    training: TrainingConfig = TrainingConfig(max_minutes=30)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_senseless_size(self.image_size, self.model)

    def rows(self, source: ImageSource) -> Rows:
        return rows_of_run(source, self, train_on_all=self.train_on == "all")


def refuse_senseless_size(image_size: int, model: UnetConfig) -> None:
    """Raise ConfigError for a size that the network cannot cut into patches and halve at every level."""
    factor = model.patch_size * 2 ** len(model.dim_mults)
    if image_size % factor != 0:
        raise ConfigError(
            f"image_size ({image_size}) must be divisible by {factor}: the network takes patches of "
            f"{model.patch_size} and halves once for each of the {len(model.dim_mults)} dim_mults"
        )
