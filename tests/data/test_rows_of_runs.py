"""The rows of a run of each system, as they were recorded: runs and models of earlier versions keep theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opsin.captioning.config import CaptioningConfig
from opsin.classification.config import ClassificationConfig
from opsin.clip.config import ClipConfig
from opsin.data.splits import DataConfig, first_of_random_order, split_digest
from opsin.diffusion.config import DiffusionConfig
from opsin.simclr.config import SimclrConfig
from opsin.sources.image_source import ImageSource
from opsin.training.config import TrainingConfig

RUN: dict[str, Any] = {"val_fraction": 0.25, "training": TrainingConfig(max_steps=1, seed=3)}
CONFIGS: dict[str, DataConfig] = {
    "classification": ClassificationConfig(max_train=7, **RUN),
    "simclr": SimclrConfig(max_train=7, **RUN),
    "captioning": CaptioningConfig(test_fraction=0.2, max_train=7, max_val=3, **RUN),
    "captioning styles": CaptioningConfig(style_fraction=0.5, **RUN),
    "clip": ClipConfig(test_fraction=0.2, max_train=7, max_val=3, **RUN),
    "clip styles": ClipConfig(held_out_style="oil", max_train=5, **RUN),
    "clip all": ClipConfig(train_on="all", max_train=7, training=RUN["training"]),
    "diffusion": DiffusionConfig(max_train=7, **RUN),
    "diffusion all": DiffusionConfig(train_on="all", max_train=7, training=RUN["training"]),
}
RECORDED = json.loads(Path(__file__).with_name("rows_of_runs.json").read_text())
"""The rows of each run, for a source without splits and for one with a test split."""


def drawings(splits: np.ndarray | None) -> ImageSource:
    """16 things, each drawn in ink and in oil, of three classes."""
    rows = np.arange(32)
    return ImageSource(
        name="drawn",
        ids=[f"{row:02d}.png" for row in rows],
        loader=lambda row: Image.new("RGB", (4, 4)),
        rows=rows,
        labels=rows // 2 % 3,
        class_names=("a", "b", "c"),
        captions=[("a thing",)] * 32,
        splits=splits,
        groups=np.array([f"g{row // 2:02d}" for row in rows]),
        metadata={"style": np.array(["ink", "oil"] * 16)},
    )


PLAIN, TESTED = drawings(None), drawings(np.array(["train"] * 26 + ["test"] * 6))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("source", "kind"), [(PLAIN, "without splits"), (TESTED, "with a test split")])
def test_rows_of_a_run_are_those_of_earlier_versions(name: str, source: ImageSource, kind: str) -> None:
    rows = CONFIGS[name].rows(source)
    assert {split: found.tolist() for split, found in rows.items() if len(found)} == RECORDED[kind][name]


def test_what_is_drawn_apart_and_digests_are_those_of_earlier_versions() -> None:
    rows = np.arange(20)
    assert first_of_random_order(rows, 5, 3, "validated").tolist() == [0, 1, 11, 13, 17]
    assert first_of_random_order(rows, 5, 3, "neighbours").tolist() == [4, 6, 7, 9, 13]
    assert split_digest(PLAIN) == "c4bf7a6f1c2dde6a8727823b63deb9f5ae3a6233756343fa09435e4f804f5993"
    assert split_digest(TESTED) == "fa3028fe688b4de56295f11b07467deec32f311b234d68a3088b9699b098dd07"
