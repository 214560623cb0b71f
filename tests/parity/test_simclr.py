"""The checks of the notebook's self-supervised half: views of a seed, losses by their formulas, sizes of networks.

The notebook compares with a file of answers; here the answers are written out from the same definitions.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as ops
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter, RandomResizedCrop

from icv83551.simclr.contrastive_loss import (
    compute_sim_matrix,
    rel_error,
    sim,
    sim_positive_pairs,
    simclr_loss_naive,
    simclr_loss_vectorized,
)
from icv83551.simclr.data_utils import compute_test_transform, compute_train_transform
from icv83551.simclr.model import Model
from opsin.profile import profile_model

MEAN, DEVIATION = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
LOWEST_ERROR = 1e-7  # what the notebook asks for

# ------------------------------------------------------------------------------------------------------ views


class Pictures(Dataset):
    """Two images of 32 x 32 pixels; `make_view` is called with each."""

    def __init__(self, make_view: Any, count: int = 2) -> None:
        self.make_view = make_view
        pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.images = [Image.fromarray(image) for image in pixels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.make_view(self.images[index])


def view_by_hand(image: Image.Image) -> Tensor:
    """torchvision's functions for one image, drawing their parameters in the order of the pipeline."""
    box = RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    view = ops.resized_crop(image, *box, [32, 32])
    if torch.rand(1) < 0.5:
        view = ops.hflip(view)
    if torch.rand(1) <= 0.8:
        order, *strengths = ColorJitter.get_params([0.6, 1.4], [0.6, 1.4], [0.6, 1.4], [-0.1, 0.1])
        changes = (ops.adjust_brightness, ops.adjust_contrast, ops.adjust_saturation, ops.adjust_hue)
        for which in order:
            view = changes[which](view, strengths[which])
    if torch.rand(1) < 0.2:
        view = ops.rgb_to_grayscale(view, num_output_channels=3)
    return ops.normalize(ops.to_tensor(view), MEAN, DEVIATION)


def test_views_of_a_seed() -> None:
    """Of many images, so that every branch is taken."""
    made = torch.stack(list(Pictures(compute_train_transform(seed=2147483647), count=60)))
    torch.manual_seed(2147483647)
    assert torch.equal(made, torch.stack(list(Pictures(view_by_hand, count=60))))


def test_views_made_by_a_worker_process() -> None:
    """The notebook's own check: the first batch of a loader with workers, of which the first makes it, from the seed
    that the loader draws."""
    transform = compute_train_transform(seed=2147483647)
    made = next(iter(DataLoader(Pictures(transform), batch_size=2, shuffle=False, num_workers=1)))
    torch.manual_seed(2147483647)
    torch.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
    expected = torch.stack(list(Pictures(view_by_hand)))
    assert made.shape == (2, 3, 32, 32)
    assert rel_error(made.numpy(), expected.numpy()) == 0.0


def test_the_seed_is_the_one_of_torch_and_of_python() -> None:
    compute_train_transform(5)
    drawn = torch.rand(()), random.random()
    torch.manual_seed(5)
    assert drawn == (torch.rand(()), random.Random(5).random())
    compute_train_transform()
    assert torch.initial_seed() == 123456


def test_images_to_test_on_are_only_normalised() -> None:
    transform = compute_test_transform()
    (image,) = Pictures(lambda image: image, count=1)
    expected = (np.asarray(image).transpose(2, 0, 1) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
        DEVIATION, (3, 1, 1)
    )
    torch.testing.assert_close(transform(image).double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- losses


def make_outputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(231)
    return torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)


def cosine(left: Tensor, right: Tensor) -> float:
    products = sum(float(a) * float(b) for a, b in zip(left, right, strict=True))
    return products / math.sqrt(sum(float(a) ** 2 for a in left) * sum(float(b) ** 2 for b in right))


def formula(left: Tensor, right: Tensor, tau: float) -> float:
    """The notebook's l(i, j), summed over both directions of all pairs, in Python's floats."""
    z, n = [*left, *right], len(left)

    def one(i: int, j: int) -> float:
        others = sum(math.exp(cosine(z[i], z[k]) / tau) for k in range(2 * n) if k != i)
        return -math.log(math.exp(cosine(z[i], z[j]) / tau) / others)

    return sum(one(k, k + n) + one(k + n, k) for k in range(n)) / (2 * n)


def test_sim() -> None:
    left, right = make_outputs()
    for a, b in zip(left, right, strict=True):
        assert rel_error(cosine(a, b), sim(a, b).cpu().numpy()) < LOWEST_ERROR * 10  # of single precision


@pytest.mark.parametrize("tau", [5.0, 1.0, 0.1])
def test_losses(tau: float) -> None:
    left, right = make_outputs()
    correct = formula(left, right, tau)
    for precise in (left.double(), right.double()), (left, right):
        tolerance = 1e-12 if precise[0].dtype == torch.float64 else 3 * LOWEST_ERROR
        assert rel_error(correct, simclr_loss_naive(*precise, tau).item()) < tolerance
        assert rel_error(correct, simclr_loss_vectorized(*precise, tau, device=left.device).item()) < tolerance


@pytest.mark.parametrize("tau", [5.0, 0.5])
def test_losses_by_hand(tau: float) -> None:
    """Two images, both views of each the same, at a right angle to the other: one other vector of three is alike."""
    left = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    correct = math.log(1 + 2 * math.exp(-1 / tau))
    assert simclr_loss_naive(left, 5 * left, tau).item() == pytest.approx(correct, rel=1e-6)
    assert simclr_loss_vectorized(left, 5 * left, tau, "cpu").item() == pytest.approx(correct, rel=1e-6)


def test_sim_positive_pairs() -> None:
    left, right = (views.double() for views in make_outputs())
    pairs = sim_positive_pairs(left, right)
    assert pairs.shape == (4, 1)
    assert rel_error([[cosine(a, b)] for a, b in zip(left, right, strict=True)], pairs.numpy()) < LOWEST_ERROR


def test_sim_matrix() -> None:
    left, right = (views.double() for views in make_outputs())
    out = torch.cat([left, right], dim=0)
    matrix = compute_sim_matrix(out).cpu()
    correct = torch.tensor([[cosine(a, b) for b in out] for a in out], dtype=torch.float64)
    assert matrix.shape == (8, 8)
    assert torch.isclose(matrix, correct).all()


def test_rel_error() -> None:
    assert rel_error(np.array([1.0, 2.0, 0.0]), np.array([1.0, 6.0, 0.0])) == 0.5
    assert rel_error(0.0, 1e-9) == pytest.approx(0.1)  # the sizes count as 1e-8 at least


# --------------------------------------------------------------------------------------------------- networks


def test_size_of_the_networks() -> None:
    """The notebook prints `# Model Params: 24.62M FLOPs: 1.31G`; 23.52M with a linear layer in place of the head."""
    model = Model(128)
    probe = nn.Sequential(model.f, nn.Flatten(), nn.Linear(2048, 10))
    for network, parameters in ((model, "24.62"), (probe, "23.52")):
        profile = profile_model(network, torch.zeros(1, 3, 32, 32))
        assert f"{profile.parameters / 1e6:.2f}" == parameters
        assert f"{(profile.macs + profile.element_wise) / 1e9:.2f}" == "1.31"
