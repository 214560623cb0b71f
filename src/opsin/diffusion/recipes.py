"""Recipes: whole configs for known data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from opsin.diffusion.config import DiffusionConfig, ProcessConfig, UnetConfig
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


def emoji_zoo() -> DiffusionConfig:
    """Every emoji in both styles, none held out, by all its names, at 32 x 32 pixels: `emoji-diffusion`."""
    return DiffusionConfig(
        data="emoji",
        train_on="all",
        # No mirroring: arrows, hands, clocks and letters would be drawn the wrong way round, under names that say left
        # or right. No shifts either: emoji fill their square, so that a shift cuts them, and the network would learn
        # to draw what is cut.
        flip=False,
        # Patches leave a quarter of the arithmetic, and so time for more steps. Most weights lie at 4 x 4 and below,
        # where they cost little and say what to draw.
        model=UnetConfig(dim=64, dim_mults=(1, 2, 3, 4), patch_size=2),
        # The image is a bounded function of the velocity at every noise level; predicted noise would have to be divided
        # by next to nothing in the first steps of a drawing, which guidance makes worse.
        process=ProcessConfig(timesteps=100, objective="pred_v", beta_schedule="sigmoid"),
        training=TrainingConfig(
            max_minutes=355,
            batch_size=64,
            learning_rate=1e-3,
            weight_decay=0.0,
            beta2=0.99,
            ema_decay=0.999,
            validations=9,
            export="last",
            log_every=50,
        ),
    )


def emoji() -> DiffusionConfig:
    """What `emoji_zoo` trains, with the val and test emoji held out: for prompts that no training image had, though the
    text encoder `emoji-clip` has seen them.

    After its 60 minutes on one core of an AMD EPYC, mostly shared with other work, seed 0, 2026-11-25, `opsin evaluate
    RUN --prompts 200 --samples 2 --steps 20` gave a top-5 prompt fidelity of 0.450 for training prompts and of 0.375
    for held-out ones, by `emoji-clip` among 1,898 names.
    """
    whole = emoji_zoo()
    return replace(whole, train_on="train", training=replace(whole.training, max_minutes=60))


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


RECIPES: dict[str, Callable[[], DiffusionConfig]] = {
    "default": default,
    "emoji": emoji,
    "emoji-zoo": emoji_zoo,
    "emoji-small": emoji_small,
}
