"""The contrastive loss against the formula pair by pair, against the whole matrix at once, and over processes."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import opsin.simclr.loss
from opsin.errors import ConfigError
from opsin.simclr.loss import (
    compute_sim_matrix,
    nt_xent_loss,
    sim,
    sim_positive_pairs,
    simclr_loss_naive,
    simclr_loss_vectorized,
)
from opsin.training.processes import aside
from tests.training.launch import CONTEXT


def make_views(count: int = 5, width: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, count, width, generator=generator, dtype=dtype)
    return left.requires_grad_(), right.requires_grad_()


def masked_cross_entropy(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """The loss of the whole similarity matrix at once."""
    unit = F.normalize(torch.cat([left, right]))
    count = len(left)
    logits = (unit @ unit.T / temperature).masked_fill(torch.eye(2 * count, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * count).roll(count))


# ---------------------------------------------------------------------------------------- the course's functions


def test_cosines_are_torchs() -> None:
    left, right = make_views()
    cosines = F.cosine_similarity(left, right)
    assert sim(left[0], right[0]).shape == ()
    torch.testing.assert_close(torch.stack([sim(a, b) for a, b in zip(left, right, strict=True)]), cosines)
    torch.testing.assert_close(sim_positive_pairs(left, right), cosines[:, None])
    out = torch.cat([left, right])
    torch.testing.assert_close(compute_sim_matrix(out), F.cosine_similarity(out[:, None], out[None], dim=2))


def test_the_loss_of_two_pairs_by_hand() -> None:
    """Views alike and images at right angles: each vector has one neighbour at cosine 1, and two at cosine 0."""
    left = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    for loss in (
        simclr_loss_naive(left, left, 0.5),
        simclr_loss_vectorized(left, left, 0.5, "cpu"),
        nt_xent_loss(left, left, 0.5),
    ):
        assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 10.0])
def test_all_three_agree_with_the_formula(temperature: float) -> None:
    left, right = make_views()
    expected = masked_cross_entropy(left, right, temperature)
    torch.testing.assert_close(simclr_loss_naive(left, right, temperature), expected)
    torch.testing.assert_close(simclr_loss_vectorized(left, right, temperature, left.device), expected)
    torch.testing.assert_close(nt_xent_loss(left, right, temperature), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_the_courses_losses_survive_what_floats_do_not(count: int) -> None:
    """In float32 at 0.01, where exp(1 / 0.01) is infinite, and with zero vectors (a dead ReLU gives them)."""
    exact = [view.detach() for view in make_views()]
    for view in exact:
        view[:count] = 0
    expected = masked_cross_entropy(*exact, 0.01)
    for loss_of in (simclr_loss_naive, lambda *arguments: simclr_loss_vectorized(*arguments, "cpu"), nt_xent_loss):
        left, right = (view.float().requires_grad_() for view in exact)
        loss = loss_of(left, right, 0.01)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        gradients = torch.autograd.grad(loss, (left, right))
        assert all(gradient.isfinite().all() for gradient in gradients)


# ---------------------------------------------------------------------------------------- the loss of training


@pytest.mark.parametrize("block", [1, 7, 23, 10**6])
def test_gradients_are_those_of_the_naive_loss(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of any number of rows, the last of which is not full."""
    monkeypatch.setattr(opsin.simclr.loss, "MOST_COSINES", block)
    left, right = make_views()
    expected = torch.autograd.grad(simclr_loss_naive(left, right, 0.3), (left, right))
    torch.testing.assert_close(
        torch.autograd.grad(3 * nt_xent_loss(left, right, 0.3), (left, right))[0], 3 * expected[0]
    )
    torch.testing.assert_close(torch.autograd.grad(nt_xent_loss(left, right, 0.3), (left, right)), expected)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent_loss(a, b, 0.3), (left, right))


class LargestTensor(TorchDispatchMode):
    """Watches every operation, also of the backward pass, for the most elements that one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(("most", "largest"), [(2000, 2000), (1, 200 * 3), (10**6, 200 * 200)])
def test_memory_is_bounded_in_both_directions(most: int, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows of the 200 at a time; one, where the vectors themselves are more; and all of them."""
    monkeypatch.setattr(opsin.simclr.loss, "MOST_COSINES", most)
    left, right = make_views(100, 3)
    with LargestTensor() as watched:
        torch.autograd.grad(nt_xent_loss(left, right, 0.5), (left, right))
    assert watched.elements == largest


def test_only_one_view_needs_a_gradient() -> None:
    left, right = make_views()
    fixed = right.detach()
    expected = torch.autograd.grad(simclr_loss_naive(left, fixed, 0.5), left)
    torch.testing.assert_close(torch.autograd.grad(nt_xent_loss(left, fixed, 0.5), left), expected)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("alike", [True, False])
def test_no_temperature_overflows(temperature: float, alike: bool) -> None:
    """In float32, where exp(1 / 0.01) is infinite; views are as near as can be, or as far from each other."""
    left = make_views(16, 8, torch.float32)[0].detach()
    right = left if alike else -left
    left, right = left.clone().requires_grad_(), right.clone().requires_grad_()
    loss = nt_xent_loss(left, right, temperature)
    loss.backward()
    expected = masked_cross_entropy(left.double(), right.double(), temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert left.grad is not None and right.grad is not None
    assert left.grad.isfinite().all() and right.grad.isfinite().all()


def test_the_loss_does_not_look_at_lengths() -> None:
    left, right = make_views()
    lengths = torch.tensor([1e-3, 1.0, 5.0, 1e3, 1e5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(nt_xent_loss(left * lengths, right, 0.5), nt_xent_loss(left, right, 0.5))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_vectors_that_are_all_alike_cannot_be_told_apart(value: float) -> None:
    """The other seven are as likely as each other."""
    left, right = (torch.full((4, 3), value, requires_grad=True) for _ in range(2))
    loss = nt_xent_loss(left, right, 0.1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(7), rel=1e-6)
    for view in (left, right):
        assert view.grad is not None and view.grad.abs().max() < 1e-5


def test_zero_vectors_have_cosine_zero() -> None:
    left, right = (view.detach() for view in make_views())
    left[1], right[1] = 0, 0
    left.requires_grad_(), right.requires_grad_()
    loss = nt_xent_loss(left, right, 0.5)
    torch.testing.assert_close(loss, masked_cross_entropy(left, right, 0.5))
    loss.backward()
    assert left.grad is not None and right.grad is not None
    assert left.grad.isfinite().all() and right.grad.isfinite().all()


def test_a_single_pair_has_nothing_to_be_told_from() -> None:
    left, right = make_views(1)
    loss = nt_xent_loss(left, right, 0.5)
    loss.backward()
    assert float(loss.detach()) == 0 and left.grad is not None and left.grad.abs().max() == 0


@pytest.mark.parametrize("temperature", [0.0, -0.5, math.nan, math.inf])
def test_senseless_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=f"temperature of the loss must be above zero, not {temperature}"):
        nt_xent_loss(*make_views(), temperature)


def test_a_batch_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image, and this batch has none"):
        nt_xent_loss(torch.zeros(0, 4), torch.zeros(0, 4), 0.5)


def test_it_is_computed_in_float32_at_any_precision() -> None:
    left, right = make_views(64, 32, torch.float32)
    rounded = left.detach().bfloat16().requires_grad_(), right.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent_loss(*rounded, 0.1)
    precise = [view.detach().float().requires_grad_() for view in rounded]
    expected = nt_xent_loss(*precise, 0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    gradient = torch.autograd.grad(loss, rounded[0])[0]
    assert torch.equal(gradient, torch.autograd.grad(expected, precise[0])[0].bfloat16())


def test_it_changes_nothing_of_the_callers() -> None:
    left, right = (view.detach() for view in make_views())
    before = left.clone(), right.clone()
    assert torch.equal(nt_xent_loss(left, right, 0.5), nt_xent_loss(left, right, 0.5))
    assert torch.equal(left, before[0]) and torch.equal(right, before[1])


# ---------------------------------------------------------------------------------------- several processes


def gradient_of_part(rank: int, sizes: list[int], directory: str) -> None:
    """What a process of a run does with its part of the joint batch; leaves its gradient in a file."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=len(sizes))
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank]) if sizes[rank] else slice(0, 1)
    left, right = (view.detach() for view in make_views())
    weights = torch.eye(4, dtype=torch.float64, requires_grad=True)
    with contextlib.nullcontext() if sizes[rank] else aside():
        loss = nt_xent_loss(left[part] @ weights, right[part] @ weights, 0.5)
    (loss * sizes[rank] / sum(sizes)).backward()
    alone = nt_xent_loss(left[part], right[part], 0.5, gather=False)
    torch.save([loss.detach(), weights.grad, alone], f"{directory}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("sizes", [[3, 2], [1, 4], [0, 5], [3, 2, 0]])
def test_processes_together_equal_the_joint_batch(sizes: list[int], tmp_path: Path) -> None:
    """Loss and gradients, also where a last part is smaller, or one image only, or a process has no image left."""
    processes = [
        CONTEXT.Process(target=gradient_of_part, args=(rank, sizes, str(tmp_path))) for rank in range(len(sizes))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(sizes))]

    left, right = (view.detach() for view in make_views())
    weights = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = simclr_loss_naive(left @ weights, right @ weights, 0.5)
    loss.backward()
    together = sum(part[0] * size / sum(sizes) for part, size in zip(parts, sizes, strict=True))
    torch.testing.assert_close(together, loss.detach())
    torch.testing.assert_close(sum(part[1] for part in parts), weights.grad)
    first = max(sizes[0], 1)
    torch.testing.assert_close(parts[0][2], nt_xent_loss(left[:first], right[:first], 0.5))
