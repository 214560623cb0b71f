"""Recipes: whole configs for known data."""

from __future__ import annotations

from collections.abc import Callable

from opsin.diffusion.config import DiffusionConfig, UnetConfig
from opsin.training.config import TrainingConfig


def default() -> DiffusionConfig:
    """A small network for captioned images of one's own: half an hour, averaged weights of the last step."""
    return DiffusionConfig(
        model=UnetConfig(dim=32, dim_mults=(1, 2, 4)),
        training=TrainingConfig(
            max_minutes=30,
            batch_size=64,
            learning_rate=1e-3,
            weight_decay=0.0,
            beta2=0.99,
            ema_decay=0.999,
            export="last",
        ),
    )


def emoji() -> DiffusionConfig:
    """The embedded emoji at 32 x 32 pixels, by their names: two and a half hours on two CPU cores."""
    return DiffusionConfig(
        data="emoji",
        model=UnetConfig(dim=48, dim_mults=(1, 2, 4, 8)),
        training=TrainingConfig(
            max_minutes=150,
            batch_size=64,
            learning_rate=1e-3,
            weight_decay=0.0,
            beta2=0.99,
            ema_decay=0.9995,
            validations=15,
            export="last",
            log_every=50,
        ),
    )


def emoji_small() -> DiffusionConfig:
    """A few emoji at 16 x 16 pixels, known by heart after a minute."""
    return DiffusionConfig(
        data="emoji",
        image_size=16,
        captions="first",
        max_train=200,
        model=UnetConfig(dim=32, dim_mults=(1, 2)),
        training=TrainingConfig(
            max_minutes=1,
            batch_size=64,
            learning_rate=2e-3,
            weight_decay=0.0,
            beta2=0.99,
            ema_decay=0.99,
            validations=2,
            export="last",
        ),
    )


RECIPES: dict[str, Callable[[], DiffusionConfig]] = {"default": default, "emoji": emoji, "emoji-small": emoji_small}
