"""Recipes: whole configs for known data. A score that was not measured is said to be so."""

from __future__ import annotations

from collections.abc import Callable

from opsin.simclr.config import AugmentConfig, EncoderConfig, SimclrConfig
from opsin.training.config import TrainingConfig


def default() -> SimclrConfig:
    """Images of one's own, with labels or without: a ResNet-18 in twenty minutes."""
    return SimclrConfig(
        image_size=64,
        augment=AugmentConfig(min_crop=0.2, view_size=48),
        training=TrainingConfig(max_minutes=20, batch_size=64, weight_decay=1e-4, export="last"),
    )


def cifar10_cpu_30min() -> SimclrConfig:
    """CIFAR-10 in half an hour on two CPU cores: a ResNet-18 on views of 16 x 16 pixels.

    `opsin train simclr --recipe cifar10-cpu-30min --data cifar10:DIR --out RUN`, then `opsin evaluate RUN --protocol
    knn`. With `--max-minutes 56` on one core of an AMD EPYC, shared with other work, seed 0, 2026-11-25: kNN accuracy
    0.5619 (untrained 0.3728) on the 10,000 test images (k = 200, temperature 0.5, 50,000 labelled ones, all as JPEG).
    """
    return SimclrConfig(
        data="cifar10",
        image_size=32,
        val_fraction=0.02,
        temperature=0.2,
        augment=AugmentConfig(min_crop=0.2, view_size=16),
        training=TrainingConfig(
            max_minutes=30, batch_size=128, weight_decay=1e-4, validations=6, export="last", log_every=10
        ),
    )


def cifar10_cpu_2h() -> SimclrConfig:
    """CIFAR-10 in two hours on two CPU cores: a ResNet-18 on views of 20 x 20 pixels.

    `opsin train simclr --recipe cifar10-cpu-2h --data cifar10:DIR --out RUN`, then `opsin evaluate RUN --protocol knn`.
    Two hours of one core of an AMD EPYC, shared with other work, seed 0, 2026-11-26: kNN accuracy 0.6022 (untrained
    0.3728) on the 10,000 test images (k = 200, temperature 0.5, 50,000 labelled ones, all as JPEG). On two cores it is
    not yet measured.
    """
    return SimclrConfig(
        data="cifar10",
        image_size=32,
        val_fraction=0.02,
        temperature=0.2,
        augment=AugmentConfig(min_crop=0.2, view_size=20),
        training=TrainingConfig(
            max_minutes=120, batch_size=128, weight_decay=1e-4, validations=12, export="last", log_every=20
        ),
    )


def cifar10_gpu() -> SimclrConfig:
    """CIFAR-10 in 24 minutes on a GPU of the class of an H100: the course's ResNet-50, compiled.

    `opsin train simclr --recipe cifar10-gpu --data cifar10:DIR --out RUN`, then `opsin evaluate RUN --protocol knn`;
    its score is not yet measured. The course states a kNN accuracy of 0.8341 (k = 200, temperature 0.5, all training
    images as neighbours, 10,000 test images) after about 18 hours.
    """
    return SimclrConfig(
        data="cifar10",
        image_size=32,
        val_fraction=0.0,
        compile=True,
        encoder=EncoderConfig(name="resnet50"),
        training=TrainingConfig(
            max_minutes=24, batch_size=512, learning_rate=1e-3, weight_decay=1e-6, export="last", log_every=50
        ),
    )


def emoji_simclr() -> SimclrConfig:
    """The embedded emoji in two drawing styles, for a first look without any data: five minutes.

    `opsin train simclr --recipe emoji-simclr --out RUN`, then `opsin evaluate RUN --protocol knn -k 200`. With
    `--max-minutes 10` on one core of an AMD EPYC, seed 0, 2026-11-25: kNN accuracy 0.555 (untrained 0.485) on the
    groups of the 402 test pictures. The usual stem of a ResNet makes a step several times as cheap as the one
    for small images. Hues change little and seldom turn grey: they tell much about emoji.
    """
    return SimclrConfig(
        data="emoji",
        image_size=64,
        temperature=0.2,
        augment=AugmentConfig(view_size=48, min_crop=0.3, hue=0.05, grayscale=0.1),
        training=TrainingConfig(
            max_minutes=5, batch_size=64, weight_decay=1e-4, validations=6, export="last", log_every=5
        ),
    )


RECIPES: dict[str, Callable[[], SimclrConfig]] = {
    "default": default,
    "cifar10-cpu-30min": cifar10_cpu_30min,
    "cifar10-cpu-2h": cifar10_cpu_2h,
    "cifar10-gpu": cifar10_gpu,
    "emoji-simclr": emoji_simclr,
}
