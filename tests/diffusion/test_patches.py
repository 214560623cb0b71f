"""The patch size of the U-Net: the plain network between two rearrangements of pixels, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from opsin.diffusion.config import DiffusionConfig, ProcessConfig, UnetConfig
from opsin.diffusion.model import build_model
from opsin.diffusion.recipes import RECIPES
from opsin.diffusion.unet import Unet
from opsin.errors import ConfigError

OPTIONS = {"dim": 8, "condition_dim": 5, "dim_mults": (1, 2)}


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def patches_of(images: Tensor, size: int) -> Tensor:
    """Channel c of the pixel in row i and column j of a patch becomes channel (c * size + i) * size + j."""
    N, C, H, W = images.shape
    patches = torch.zeros(N, C * size * size, H // size, W // size)
    for c in range(C):
        for i in range(size):
            for j in range(size):
                patches[:, (c * size + i) * size + j] = images[:, c, i::size, j::size]
    return patches


@pytest.mark.parametrize("size", [1, 2, 3])
def test_equals_the_plain_network_on_patches(size: int) -> None:
    torch.manual_seed(0)
    patched = Unet(**OPTIONS, patch_size=size).eval()  # type: ignore[arg-type]
    plain = Unet(**OPTIONS, channels=3 * size**2).eval()  # type: ignore[arg-type]
    plain.load_state_dict(patched.state_dict())
    x, time = torch.randn(2, 3, 4 * size, 8 * size), torch.tensor([0, 30])
    for kwargs in ({"text_emb": torch.randn(2, 5)}, {"text_emb": torch.randn(2, 5), "cfg_scale": 1.5}):
        predicted = patched(x, time, kwargs)
        assert predicted.shape == x.shape
        torch.testing.assert_close(patches_of(predicted, size), plain(patches_of(x, size), time, kwargs))


def test_only_the_outer_convolutions_grow() -> None:
    plain, patched = Unet(**OPTIONS), Unet(**OPTIONS, patch_size=2)  # type: ignore[arg-type]
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    other = {name: tensor.shape for name, tensor in patched.state_dict().items()}
    assert list(shapes) == list(other)
    assert {name for name in shapes if shapes[name] != other[name]} == {
        *("init_conv.weight", "final_conv.weight", "final_conv.bias"),
    }
    assert count(patched) - count(plain) == (12 - 3) * (8 * 9 + 8 + 1)


def test_sizes_that_do_not_fit() -> None:
    network = Unet(**OPTIONS, patch_size=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"divisible by 8, because it halves them 2 times after patches of 2"):
        network(torch.zeros(1, 3, 12, 8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="patch_size must be at least 1"):
        Unet(**OPTIONS, patch_size=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="patch_size must be at least 1"):
        UnetConfig(patch_size=0)
    with pytest.raises(ConfigError, match="image_size .16. must be divisible by 32: the network takes patches of 4"):
        DiffusionConfig(image_size=16, model=UnetConfig(dim_mults=(1, 2, 4), patch_size=4))


def test_network_of_the_zoo_fits_its_budget() -> None:
    """26 MB in float16 hold 13 million numbers."""
    config = RECIPES["emoji-zoo"]()
    model = build_model(config.model, config.process, config.image_size, text_dim=256)
    assert 10e6 < count(model) < 12.9e6
    plain = build_model(UnetConfig(), ProcessConfig(), 32, text_dim=512)
    assert count(plain) == 12_444_963
