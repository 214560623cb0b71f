"""ResNets: torchvision's with the usual stem, the course's encoder with the one for small images."""

from __future__ import annotations

import pytest
import torch
from torchvision import models

from opsin.nn.resnet import NAMES, ResNet
from opsin.profile import profile_model
from opsin.simclr.config import LARGEST_SMALL_IMAGE, least_trained_side


@pytest.mark.parametrize("name", NAMES)
def test_with_the_usual_stem_it_is_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    peer = models.get_model(name, weights=None)
    peer.fc = torch.nn.Identity()
    network = ResNet(name)
    own = dict(zip(network.state_dict(), peer.state_dict().values(), strict=True))
    network.load_state_dict(own)
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        features = network.eval()(images)
        torch.testing.assert_close(features, peer.eval()(images))
    assert features.shape == (2, network.feature_dim)


def test_the_small_stem_keeps_every_pixel() -> None:
    """Three stages halve the sides, so that images of 32 pixels leave 4 x 4 places; with the usual stem it is one."""
    sizes = {}
    for small in (False, True):
        network = ResNet("resnet18", small_images=small).eval()
        pool = next(part for part in network if isinstance(part, torch.nn.AdaptiveAvgPool2d))
        pool.register_forward_pre_hook(lambda _, inputs, small=small: sizes.__setitem__(small, inputs[0].shape))
        with torch.no_grad():
            network(torch.randn(1, 3, 32, 32))
    assert sizes == {False: (1, 512, 1, 1), True: (1, 512, 4, 4)}
    stem = ResNet("resnet18", small_images=True)[0]
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)


@pytest.mark.parametrize("small", [True, False])
def test_bfloat16_gradients_are_sound_from_the_least_size_on(small: bool) -> None:
    """Below it the last stage would halve a single place, whose gradients in bfloat16 are garbage on a CPU."""
    torch.manual_seed(0)
    network = ResNet("resnet18", small_images=small).to(memory_format=torch.channels_last)
    halving = network[-3][0].conv1
    assert halving.stride == (2, 2) and halving.kernel_size == (3, 3)
    sides: list[int] = []
    halving.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    least = least_trained_side(LARGEST_SMALL_IMAGE if small else LARGEST_SMALL_IMAGE + 1)
    with torch.no_grad():
        network(torch.randn(2, 3, least - 1, least - 1))
    images = torch.randn(8, 3, least, least).contiguous(memory_format=torch.channels_last)
    gradients = []
    for rounded in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
            features = network(images)
        gradients.append(torch.autograd.grad(features.float().square().mean(), halving.weight)[0])
    assert sides == [1, 2, 2]
    assert (gradients[1] - gradients[0]).norm() < 0.5 * gradients[0].norm()


def test_keys_are_the_courses_numbers() -> None:
    """Convolution, norm, ReLU, four stages, pooling: of these, 0, 1 and 3 to 6 have weights."""
    keys = ResNet("resnet50", small_images=True).state_dict()
    assert {key.split(".")[0] for key in keys} == {"0", "1", "3", "4", "5", "6"}
    assert {"0.weight", "1.running_var", "3.0.conv1.weight", "6.2.bn3.bias"} <= set(keys)


def test_size_and_work_of_the_courses_encoder() -> None:
    network = ResNet("resnet50", small_images=True)
    profile = profile_model(network, torch.zeros(1, 3, 32, 32))
    assert profile.parameters == 23_500_352
    assert profile.macs == 1_297_809_408


def test_grey_stripes_and_single_pixels() -> None:
    network = ResNet("resnet18", small_images=True).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 1, 1)).isfinite().all()
        assert network(torch.zeros(1, 3, 5, 40)).shape == (1, 512)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="resnet17.*resnet18, resnet34, resnet50"):
        ResNet("resnet17")
