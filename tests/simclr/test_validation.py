"""What a run looks at between its steps: the loss and the neighbours of images that were held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opsin.data.pixels import fit_image
from opsin.runtime import make_generator
from opsin.simclr.data import open_splits, two_views
from opsin.simclr.loss import simclr_loss_naive
from opsin.simclr.train import train_simclr
from opsin.sources.opening import open_source

from .conftest import PERIODS, task_of, tiny_config


def test_without_held_out_images_nothing_is_validated(pattern_folder: Path, tmp_path: Path) -> None:
    report = train_simclr(tiny_config(pattern_folder, val_fraction=0.0, max_steps=2), tmp_path / "run")
    assert report.metrics == {}
    assert "none measured" in (report.model / "README.md").read_text(encoding="utf-8")


def test_validation_looks_at_some_images_and_their_own_labels(
    pattern_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsin.simclr.data.MOST_VALIDATED", 5)
    monkeypatch.setattr("opsin.simclr.data.MOST_NEIGHBOURS", 7)
    source, data = open_source(str(pattern_folder)), open_splits(tiny_config(pattern_folder))
    assert data.val is not None and data.bank is not None
    assert (len(data.val), len(data.bank)) == (5, 7)
    labels = {}
    for row in range(len(source)):
        if "broken" not in source.ids[row]:
            labels[fit_image(source.load(row), 16).tobytes()] = source.labels[row]  # type: ignore[index]
    bank = data.bank.__getitems__(list(range(7)))
    for image, label in zip(bank["image"], bank["label"].tolist(), strict=True):
        assert labels[image.numpy().tobytes()] == label
    whole = data.train.__getitems__(list(range(len(data.train))))["image"]
    assert not torch.equal(bank["image"], whole[:7])  # not the first ones only


def test_a_single_held_out_image_has_no_loss(tmp_path: Path) -> None:
    for number in range(9):
        Image.new("RGB", (16, 16), (20 * number,) * 3).save(tmp_path / f"{number}.png")
    config = tiny_config(tmp_path, val_fraction=0.1, max_steps=2, batch_size=4)
    report = train_simclr(config, tmp_path / "run")
    assert report.num_train == 8 and report.metrics == {}


def test_validation_goes_on_beside_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read as needed here: of six images in batches of three each batch has lost one, or two."""
    monkeypatch.setattr("opsin.data.datasets.MEMORY_LIMIT", 0)
    for split, count in (("train", 4), ("val", 6)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(count):
            colour = (40 * number, 20, 200 - 30 * number)
            Image.new("RGB", (16, 16), colour).save(tmp_path / "images" / split / f"{number}.png")
    losses = {}
    for broken in ((), (1, 4), (0, 1, 4), (0, 1, 4, 5)):
        for number in broken:
            (tmp_path / "images" / "val" / f"{number}.png").write_bytes(b"no image")
        task = task_of(tiny_config(tmp_path / "images", batch_size=3, max_steps=1, precision="32"))
        losses[broken] = task.evaluate().get("val_loss")
    assert losses[0, 1, 4, 5] is None and all(np.isfinite(losses[broken]) for broken in ((), (1, 4), (0, 1, 4)))


def test_the_validation_loss_is_a_mean_over_images(pattern_folder: Path) -> None:
    """Twelve images in batches of five: those of the last two count less."""
    config = tiny_config(pattern_folder, batch_size=5, precision="32")
    task = task_of(config).eval()
    assert task.splits.val is not None and len(task.splits.val) == 12
    generator = make_generator(config.training.seed, "validation")
    total = 0.0
    for rows in (range(5), range(5, 10), range(10, 12)):
        images = task.splits.val.__getitems__(list(rows))["image"]
        views = two_views(images.float() / 255, 16, config.augment, generator)
        with torch.no_grad():
            left, right = task.model(task.preprocessing.normalize(views))[1].chunk(2)
        total += len(rows) * float(simclr_loss_naive(left, right, config.temperature))
    assert task.evaluate()["val_loss"] == pytest.approx(total / 12, rel=1e-5)


def test_images_without_labels_are_judged_by_the_loss(pattern_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for name in PERIODS:
        for index in range(4):
            target = tmp_path / "flat" / f"{name}{index}.png"
            target.write_bytes((pattern_folder / name / f"{index:02d}.png").read_bytes())
    config = tiny_config(tmp_path / "flat", max_steps=3, batch_size=4)
    task = task_of(config)
    assert (task.monitor, task.higher_is_better) == ("val_loss", False)
    report = train_simclr(config, tmp_path / "run")
    assert report.metrics.keys() == {"val_loss"}
    single = tmp_path / "single" / "only"
    single.mkdir(parents=True)
    for file in (tmp_path / "flat").iterdir():
        (single / file.name).write_bytes(file.read_bytes())
    assert task_of(tiny_config(tmp_path / "single")).monitor == "val_loss"
