"""Recipes: whole configs for known data."""

from __future__ import annotations

from collections.abc import Callable

from opsin.clip.config import AugmentConfig, ClipConfig, ImageTowerConfig, TextTowerConfig
from opsin.training.config import TrainingConfig


def default() -> ClipConfig:
    """Captioned images of one's own: ten minutes, weights chosen by validation."""
    return ClipConfig(
        image=ImageTowerConfig(dropout=0.1),
        text=TextTowerConfig(dropout=0.1),
        augment=AugmentConfig(geometry=0.5, style=0.3),
        training=TrainingConfig(max_minutes=10, batch_size=128, learning_rate=5e-4, weight_decay=0.1),
    )


def emoji() -> ClipConfig:
    """The embedded emoji in two drawing styles, for retrieval of the ones trained on in any style: ten minutes."""
    return ClipConfig(
        data="emoji",
        image_size=32,
        training=TrainingConfig(max_minutes=10, batch_size=256, learning_rate=1e-3, export="last"),
    )


RECIPES: dict[str, Callable[[], ClipConfig]] = {"default": default, "emoji": emoji}
