"""The contrastive loss against a slow loop, against open_clip's, and over several processes."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor

from opsin.clip.loss import clip_loss
from opsin.training.processes import aside
from tests.training.launch import CONTEXT

SCALE = 7.0
KEYS = torch.tensor([[0, 10], [1, 11], [0, 12], [2, 11], [3, 13]])
"""Samples 0 and 2 are of one group, 1 and 3 have the same text."""


def make_features(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)


def slow_loss(images: Tensor, texts: Tensor, keys: Tensor | None) -> float:
    total = 0.0
    for queries, answers in ((images, texts), (texts, images)):
        for own in range(len(queries)):
            others = [
                other
                for other in range(len(answers))
                if other == own or keys is None or not any(keys[own, k] == keys[other, k] for k in range(keys.shape[1]))
            ]
            cosines = {other: float(F.cosine_similarity(queries[own], answers[other], dim=0)) for other in others}
            partition = sum(math.exp(SCALE * cosine) for cosine in cosines.values())
            total -= math.log(math.exp(SCALE * cosines[own]) / partition)
    return total / (2 * len(images))


@pytest.mark.parametrize("keys", [None, KEYS, KEYS[:, :1]])
def test_against_a_slow_loop(keys: Tensor | None) -> None:
    images, texts = make_features()
    loss, accuracy = clip_loss(images, texts, SCALE, keys)
    assert float(loss) == pytest.approx(slow_loss(images, texts, keys), rel=1e-5)
    if keys is None:
        best = (F.normalize(images) @ F.normalize(texts).T).argmax(dim=1)
        assert float(accuracy) == float((best == torch.arange(5)).float().mean())


def test_against_open_clip_where_no_two_samples_are_alike() -> None:
    images, texts = make_features(1)
    distinct = torch.arange(10).view(5, 2)
    expected = ClipLoss()(F.normalize(images), F.normalize(texts), torch.tensor(SCALE))
    torch.testing.assert_close(clip_loss(images, texts, SCALE, distinct)[0], expected)


def test_alike_samples_do_not_push_each_other_away() -> None:
    """The text of the other drawing of a thing gets no gradient from this drawing."""
    images, texts = make_features()
    texts.requires_grad_()
    keys = torch.zeros(5, 1, dtype=torch.int64)
    loss, accuracy = clip_loss(images, texts, SCALE, keys)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6) and float(accuracy) == 1.0
    assert texts.grad is not None and texts.grad.abs().max() < 1e-6


def test_it_is_computed_in_float32_at_any_precision() -> None:
    images, texts = make_features()
    rounded = images.bfloat16(), texts.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = clip_loss(*rounded, 100.0, KEYS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, clip_loss(rounded[0].float(), rounded[1].float(), 100.0, KEYS)[0])


# ---------------------------------------------------------------------------------------- several processes


def gradient_of_part(rank: int, sizes: list[int], directory: str) -> None:
    """What a process of a run does with its part of the joint batch; leaves its gradient in a file."""
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=len(sizes))
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank]) if sizes[rank] else slice(0, 1)
    images, texts = make_features()
    weights, scale = torch.eye(4, requires_grad=True), torch.tensor(SCALE, requires_grad=True)
    with contextlib.nullcontext() if sizes[rank] else aside():
        loss, _ = clip_loss(images[part] @ weights, texts[part] @ weights, scale, KEYS[part])
    (loss * sizes[rank] / sum(sizes)).backward()
    torch.save([loss.detach(), weights.grad, scale.grad], f"{directory}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("sizes", [[3, 2], [1, 4], [2, 1, 2], [4, 0, 1]])
def test_processes_together_equal_the_joint_batch(sizes: list[int], tmp_path: Path) -> None:
    """Loss and gradients, also where the parts are of different sizes or empty, and alike samples in different ones."""
    processes = [
        CONTEXT.Process(target=gradient_of_part, args=(rank, sizes, str(tmp_path))) for rank in range(len(sizes))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(sizes))]

    images, texts = make_features()
    weights, scale = torch.eye(4, requires_grad=True), torch.tensor(SCALE, requires_grad=True)
    loss, _ = clip_loss(images @ weights, texts @ weights, scale, KEYS)
    loss.backward()
    together = sum(part[0] * size / sum(sizes) for part, size in zip(parts, sizes, strict=True))
    torch.testing.assert_close(together, loss.detach())
    torch.testing.assert_close(sum(part[1] for part in parts), weights.grad)
    torch.testing.assert_close(sum(part[2] for part in parts), scale.grad)
