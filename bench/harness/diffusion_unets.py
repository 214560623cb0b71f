"""Peers of the course's U-Net (12.4 million parameters for 32 x 32 pixels) that it is timed against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch import GaussianDiffusion as PeerDiffusion
from denoising_diffusion_pytorch import Unet as PeerUnet
from torch import Tensor, nn

from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.model import TextDiffusion, build_model
from opsin.diffusion.unet import Block, RMSNorm
from opsin.nn.attention import Dropout

IMAGE_SIZE, TEXT_DIM = 32, 512
COURSE_UNET = UnetConfig(dim=48, dim_mults=(1, 2, 4, 8))
PROCESS = ProcessConfig(timesteps=100)
PEER_DIM = 36
"""The width at which denoising-diffusion-pytorch's network has about as many parameters: 11.6 million."""


class PlainNorm(nn.Module):
    """Channels scaled to length one, then by g and the root of their number: one operation after the other."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.g = norm.g

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.g * x.shape[1] ** 0.5


class PlainBlock(nn.Module):
    """Convolution, norm, scale and shift, GELU, written out."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.proj = block.proj
        self.norm = PlainNorm(block.norm)
        self.act = nn.GELU()

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            x = x * (scale_shift[0] + 1) + scale_shift[1]
        return self.act(x)


def course_model() -> TextDiffusion:
    """opsin's model with the sizes of the course's."""
    return build_model(COURSE_UNET, PROCESS, IMAGE_SIZE, TEXT_DIM)


def plain_model() -> TextDiffusion:
    """The same function of the same state dict, of the blocks and torch's own dropout that a first script would use."""
    model = course_model()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Block):
                setattr(module, name, PlainBlock(child))
            elif isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))
    return model


def peer_diffusion() -> PeerDiffusion:
    """denoising-diffusion-pytorch's network in its own process; it takes no texts, and has attention."""
    unet = PeerUnet(dim=PEER_DIM, dim_mults=COURSE_UNET.dim_mults, dropout=0.1)
    return PeerDiffusion(unet, image_size=IMAGE_SIZE, timesteps=PROCESS.timesteps, objective="pred_v")


@torch.no_grad()
def check_plain() -> None:
    """The plain network with opsin's weights predicts what opsin's does."""
    torch.manual_seed(0)
    own, plain = course_model().eval(), plain_model().eval()
    plain.load_state_dict(own.state_dict())
    x, t = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE), torch.tensor([3, 90])
    conditions = {"text_emb": torch.randn(2, TEXT_DIM)}
    expected = own.diffusion.predict_x_start(x, t, conditions)
    torch.testing.assert_close(plain.diffusion.predict_x_start(x, t, conditions), expected, rtol=1e-3, atol=1e-4)
