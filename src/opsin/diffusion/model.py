"""A diffusion process with its network and the scale of its text embeddings: all the weights of a trained model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opsin.config import Count
from opsin.diffusion.config import DiffusionConfig, ProcessConfig, UnetConfig, refuse_senseless_size
from opsin.diffusion.gaussian_diffusion import GaussianDiffusion
from opsin.diffusion.unet import Unet
from opsin.images.preprocessing import ImageSize
from opsin.pretrained import ModelContent


class TextDiffusion(nn.Module):
    """Embeddings are centred and scaled before they reach the network, so that no text at all is the average one.

    Text encoders give vectors of length one, which share much of their direction: what tells texts apart is small then.
    """

    text_mean: Tensor
    text_scale: Tensor

    def __init__(self, diffusion: GaussianDiffusion, text_dim: int) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.register_buffer("text_mean", torch.zeros(text_dim))
        self.register_buffer("text_scale", torch.ones(()))

    def fit_texts(self, features: Tensor) -> None:
        """Take mean and overall deviation from the training texts' embeddings (M, E)."""
        self.text_mean.copy_(features.mean(dim=0))
        deviation = (features - self.text_mean).square().mean().sqrt()
        self.text_scale.copy_(1 / deviation if deviation > 1e-6 else torch.ones(()))

    def scaled(self, features: Tensor) -> Tensor:
        """Embeddings (N, E) as the network takes them."""
        return (features - self.text_mean) * self.text_scale


@dataclass(frozen=True, kw_only=True)
class DiffusionContent(ModelContent[DiffusionConfig]):
    """What describes a diffusion model."""

    config_class = DiffusionConfig
    model: UnetConfig
    process: ProcessConfig
    image_size: ImageSize
    text_encoder: str
    """The reference of the text encoder whose vectors the network was trained on; see `load_text_encoder`."""
    text_fingerprint: str | None = None
    """That encoder's `opsin.encoders.fingerprint`; None where it is not known."""
    text_dim: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_senseless_size(self.image_size, self.model)


def build_model(model: UnetConfig, process: ProcessConfig, image_size: int, text_dim: int) -> TextDiffusion:
    """A freshly initialised network of this shape, in its process."""
    unet = Unet(model.dim, text_dim, model.dim_mults, uncond_prob=model.uncond_prob, patch_size=model.patch_size)
    diffusion = GaussianDiffusion(
        unet,
        image_size=image_size,
        timesteps=process.timesteps,
        objective=process.objective,
        beta_schedule=process.beta_schedule,
        min_snr_gamma=process.min_snr_gamma,
    )
    return TextDiffusion(diffusion, text_dim)
