"""Views of CIFAR-10 under the course's path, made by torchvision's transforms, one image at a time."""

from __future__ import annotations

import random
from typing import Any

import torch
from torchvision import transforms
from torchvision.datasets import CIFAR10

__all__ = ["CIFAR10Pair", "compute_test_transform", "compute_train_transform"]

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def compute_train_transform(seed: int = 123456) -> transforms.Compose:
    """PIL images to random views, float32 (3, 32, 32), normalised. Seeds Python's and torch's random numbers first."""
    random.seed(seed)
    torch.manual_seed(seed)
    jitter = transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(32),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            compute_test_transform(),
        ]
    )


def compute_test_transform() -> transforms.Compose:
    """PIL images to float32 (3, H, W), normalised."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)])


class CIFAR10Pair(CIFAR10):
    """CIFAR-10, each item two views of an image and its label; the first view is made first."""

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        left, target = super().__getitem__(index)
        right, _ = super().__getitem__(index)
        return left, right, target
