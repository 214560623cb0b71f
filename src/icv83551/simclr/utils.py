"""The course's loops: training by contrast, training a classifier, and testing features by their neighbours.

They show their progress on stderr. `device` is where the model is; a GPU means the CPU where there is none, since the
course names one in any case.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from opsin.probing.knn import knn_predict
from opsin.simclr.loss import simclr_loss_vectorized

__all__ = ["test", "train", "train_val"]


def train(
    model: nn.Module,
    data_loader: DataLoader,
    train_optimizer: Optimizer,
    epoch: int,
    epochs: int,
    batch_size: int = 32,
    temperature: float = 0.5,
    device: torch.device | str = "cuda",
) -> float:
    """One epoch over batches of (left view, right view, label); returns the mean of their losses.

    `batch_size` makes no difference: all batches count alike, as they do in the course.
    """
    device = _usable(device)
    model.train()
    losses: list[float] = []
    with tqdm(data_loader) as progress:
        for left, right, _ in progress:
            _, out_left = model(left.to(device))
            _, out_right = model(right.to(device))
            loss = simclr_loss_vectorized(out_left, out_right, temperature, device)
            _step(train_optimizer, loss)
            losses.append(loss.item())
            progress.set_description(f"Train Epoch: [{epoch}/{epochs}] Loss: {_mean(losses):.4f}", refresh=False)
    return _mean(losses)


def train_val(
    model: nn.Module,
    data_loader: DataLoader,
    train_optimizer: Optimizer | None,
    epoch: int,
    epochs: int,
    device: torch.device | str = "cuda",
) -> tuple[float, float, float]:
    """One epoch of a classifier over batches of (image, label), which trains it where there is an optimizer.

    Returns the mean cross-entropy per image, and how often the label was the class of the highest score and among
    those of the five highest, in percent.
    """
    device = _usable(device)
    training = train_optimizer is not None
    model.train(training)
    loss_sum, top1, top5, count = 0.0, 0, 0, 0
    with tqdm(data_loader) as progress, torch.set_grad_enabled(training):
        for images, labels in progress:
            images, labels = images.to(device), labels.to(device)
            scores = model(images)
            loss = F.cross_entropy(scores, labels)
            if train_optimizer is not None:
                _step(train_optimizer, loss)
            first, fifth = _hits(scores, labels)
            loss_sum, top1, top5 = loss_sum + loss.item() * len(labels), top1 + first, top5 + fifth
            count += len(labels)
            progress.set_description(
                f"{'Train' if training else 'Test'} Epoch: [{epoch}/{epochs}] Loss: {loss_sum / count:.4f} "
                f"ACC@1: {100 * top1 / count:.2f}% ACC@5: {100 * top5 / count:.2f}%",
                refresh=False,
            )
    _check(count)
    return loss_sum / count, 100 * top1 / count, 100 * top5 / count


@torch.no_grad()
def test(
    model: nn.Module,
    memory_data_loader: DataLoader,
    test_data_loader: DataLoader,
    epoch: int,
    epochs: int,
    c: int,
    temperature: float = 0.5,
    k: int = 200,
    device: torch.device | str = "cuda",
) -> tuple[float, float]:
    """How often the `k` nearest features of the memory tell a test image's label, at first guess and in five guesses.

    Both loaders give (view, another view, label), of which the first view is looked at; the memory's labels are the
    `targets` of its data set, in the loader's order, and below `c`. Returns percentages. Raises ConfigError when the
    memory has fewer than `k` images.
    """
    device = _usable(device)
    model.eval()
    features = [model(view.to(device))[0] for view, _, _ in tqdm(memory_data_loader, desc="Feature extracting")]
    _check(len(features))
    bank = torch.cat(features)
    bank_labels = torch.as_tensor(memory_data_loader.dataset.targets, device=device)  # type: ignore[attr-defined]
    top1, top5, count = 0, 0, 0
    with tqdm(test_data_loader) as progress:
        for view, _, labels in progress:
            feature, _ = model(view.to(device))
            scores = knn_predict(feature, bank, bank_labels, c, k=k, temperature=temperature)
            first, fifth = _hits(scores, labels.to(device))
            top1, top5, count = top1 + first, top5 + fifth, count + len(labels)
            progress.set_description(
                f"Test Epoch: [{epoch}/{epochs}] Acc@1:{100 * top1 / count:.2f}% Acc@5:{100 * top5 / count:.2f}%",
                refresh=False,
            )
    _check(count)
    return 100 * top1 / count, 100 * top5 / count


def _usable(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    return torch.device("cpu") if device.type == "cuda" and not torch.cuda.is_available() else device


def _step(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _hits(scores: Tensor, labels: Tensor) -> tuple[int, int]:
    """Rows of scores (N, K) whose label (N,) has the highest one, and one of the five highest."""
    best = scores.argsort(dim=1, descending=True)[:, :5] == labels[:, None]
    return int(best[:, :1].sum()), int(best.sum())


def _mean(losses: list[float]) -> float:
    _check(len(losses))
    return sum(losses) / len(losses)


def _check(count: int) -> None:
    if count == 0:
        raise ValueError("the loader gave no batch: with drop_last, the data set has to fill one at least")
