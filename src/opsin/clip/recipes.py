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
    """The embedded emoji in two drawing styles, for retrieval of the ones trained on in any style: ten minutes.

    `opsin train clip --recipe emoji --out RUN` gave a recall at 10 of 0.990 among the training drawings of Twemoji and
    0.991 among those of OpenMoji (each name once as a query among the drawings of a style and each drawing once among
    the names, mean of both directions, last weights, seed 0) after 3,374 steps in ten minutes on two cores of an AMD
    EPYC in bfloat16, 2026-11-25; on drawings of emoji that were never trained on 0.408 and 0.403.
    """
    return ClipConfig(
        data="emoji",
        image_size=32,
        # Convolutions alone learn this in far fewer steps than with transformer layers on top of them.
        image=ImageTowerConfig(num_layers=0),
        training=TrainingConfig(
            max_minutes=10, batch_size=128, learning_rate=4e-4, validations=4, export="last", log_every=40
        ),
    )


def emoji_zoo() -> ClipConfig:
    """The zoo's `emoji-clip`: every emoji in both styles, none held out, varied more for styles never seen."""
    return ClipConfig(
        data="emoji",
        image_size=32,
        train_on="all",
        image=ImageTowerConfig(num_layers=0, embed_dim=256),
        augment=AugmentConfig(geometry=0.6, style=0.7, word_dropout=0.4, prefix=0.2),
        training=TrainingConfig(
            max_minutes=55, batch_size=128, learning_rate=4e-4, ema_decay=0.998, export="last", log_every=40
        ),
    )


def photos() -> ClipConfig:
    """Captioned photographs of one's own, on the encoder imagenet with its 1,000 class names: two minutes."""
    return ClipConfig(
        image_encoder="imagenet",
        lock_image=True,
        class_names=True,
        data="",
        image=ImageTowerConfig(dropout=0.4),
        text=TextTowerConfig(kind="words", vocab_size=8000, max_length=48, embed_dim=256),
        augment=AugmentConfig(word_dropout=0, word_shuffle=0, subword_dropout=0),
        training=TrainingConfig(
            max_steps=600, batch_size=160, learning_rate=3e-3, precision="32", validations=4, export="last"
        ),
    )


RECIPES: dict[str, Callable[[], ClipConfig]] = {
    "default": default,
    "emoji": emoji,
    "emoji-zoo": emoji_zoo,
    "photos": photos,
}
