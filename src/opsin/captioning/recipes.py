"""Recipes: whole configs for known data."""

from __future__ import annotations

from collections.abc import Callable

from opsin.captioning.config import CaptioningConfig, DecoderConfig, EncoderConfig
from opsin.training.config import TrainingConfig


def default() -> CaptioningConfig:
    """A small network for captioned images of one's own: five minutes, weights chosen by validation."""
    return CaptioningConfig(
        image_size=64,
        encoder=EncoderConfig(num_layers=0),
        shift=6,
        label_smoothing=0.1,
        word_loss=1.0,
        training=TrainingConfig(max_minutes=5, batch_size=64, learning_rate=1e-3),
    )


def overfit_50() -> CaptioningConfig:
    """The course's first check: 50 captions of its COCO features, 200 steps without regularisation, known by heart.

    The data is in `--data course-coco:DIR`. The decoder has the notebook's sizes. With 50 real captions and random
    numbers for features, in the course's layout, the loss ended at 0.008 nats a word, and greedy decoding gave all 50
    captions word for word (seed 0, two cores of an AMD EPYC in bfloat16, 2026-11-24). The course asks for 0.05.
    """
    return CaptioningConfig(
        data="course-coco:",
        captions="first",
        max_train=50,
        max_val=50,
        decoder=DecoderConfig(
            embed_dim=256,
            num_layers=2,
            num_heads=2,
            dim_feedforward=2048,
            dropout=0.0,
            pre_norm=False,
            tie_weights=False,
            max_length=30,
        ),
        training=TrainingConfig(
            max_steps=200,
            batch_size=25,
            learning_rate=1e-3,
            weight_decay=0.0,
            validations=1,
            export="last",
            log_every=10,
        ),
    )


def emoji() -> CaptioningConfig:
    """The names of the embedded emoji, in two drawing styles.

    Two tests: emoji that were never seen, and a tenth of the training emoji in the style that was held out.
    `opsin train captioner --recipe emoji --out RUN` gave, for 148 drawings in the held-out style, an exact match of
    0.297, BLEU-4 of 0.375 and CIDEr-D of 1.78, and for 402 drawings of emoji never seen 0.017, 0.204 and 0.59 (3 beams,
    last weights, seed 0), after 4,775 steps in 10 minutes on two cores of an AMD EPYC in bfloat16, 2026-11-24.
    """
    return CaptioningConfig(
        data="emoji",
        captions="first",
        style_fraction=0.1,
        image_size=32,
        encoder=EncoderConfig(patch_size=8, embed_dim=192, num_layers=0, dropout=0.0),
        decoder=DecoderConfig(
            embed_dim=192, num_layers=2, num_heads=4, dim_feedforward=384, dropout=0.0, max_length=16
        ),
        shift=3,
        augment_ops=2,
        word_loss=1.0,
        # Validation is on emoji never seen, and this recipe is for those that were seen: it keeps the last weights.
        training=TrainingConfig(max_minutes=10, batch_size=64, learning_rate=2e-3, beta2=0.98, export="last"),
    )


def photos() -> CaptioningConfig:
    """A few hundred photos with several captions each, encoder and decoder trained together.

    Words that occur less than three times are not learned. A tenth of the photos is for the test, and a tenth of the
    others for validation (of 800: 80, 72, and 648 to train).
    `opsin train captioner --recipe photos --data SRC --out RUN` on 800 photos with five captions each gave a
    BLEU-4 of 0.113 and a CIDEr-D of 0.28 on the 80 test photos (3 beams, weights with the best validation CIDEr-D,
    seed 0), after 1,431 steps in 10 minutes on two cores of an AMD EPYC in bfloat16, 2026-11-24.
    """
    return CaptioningConfig(
        data="",
        image_size=96,
        min_count=3,
        test_fraction=0.1,
        encoder=EncoderConfig(patch_size=16, embed_dim=192, num_layers=0),
        flip=True,
        shift=8,
        augment_ops=1,
        label_smoothing=0.1,
        word_loss=1.0,
        training=TrainingConfig(max_minutes=10, batch_size=64, learning_rate=1e-3, beta2=0.98),
    )


RECIPES: dict[str, Callable[[], CaptioningConfig]] = {
    "default": default,
    "overfit-50": overfit_50,
    "emoji": emoji,
    "photos": photos,
}
