"""Which images an encoder is evaluated on, and which labels it may use."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opsin.classification.config import ClassificationConfig, ViTConfig
from opsin.classification.train import train_classifier
from opsin.clip.config import ClipConfig
from opsin.data.splits import split_rows
from opsin.encoders import load
from opsin.errors import ConfigError, DataError
from opsin.pretrained import RunRecord
from opsin.probing.evaluation_set import EvaluationSet, open_evaluation_set
from opsin.simclr.inference import SimclrEncoder
from opsin.sources.opening import open_source
from opsin.training.config import TrainingConfig

from ..simclr.conftest import Run, make_pattern_folder, tiny_config


def with_run(encoder: SimclrEncoder, run: RunRecord[Any] | None) -> SimclrEncoder:
    return SimclrEncoder(encoder.model, replace(encoder.content, run=run), name="other", precision="32")


def test_images_are_divided_as_in_the_run(encoder: SimclrEncoder, parts: EvaluationSet, pattern_folder: Path) -> None:
    source = open_source(str(pattern_folder))
    rows = tiny_config(pattern_folder).rows(source)
    assert parts.split == "val" and parts.data == str(pattern_folder)
    assert list(parts.test.ids) == [source.ids[row] for row in rows["val"]]
    assert sorted(parts.labelled.ids) == [source.ids[row] for row in rows["train"]]
    some = open_evaluation_set(encoder, None, None, 0.25, seed=0).labelled
    assert some.labels is not None and np.bincount(some.labels).tolist() == [3, 3, 3]
    assert list(some.ids) == list(parts.labelled.ids[: len(some)])


def test_other_sources_are_divided_by_their_splits_or_evenly(encoder: SimclrEncoder, tmp_path: Path) -> None:
    other = make_pattern_folder(tmp_path / "other", 10)
    divided = open_evaluation_set(encoder, str(other), None, 1.0, seed=0)
    assert divided.test.labels is not None and np.bincount(divided.test.labels).tolist() == [2, 2, 2]
    assert not set(divided.test.ids) & set(divided.labelled.ids)
    divided = {}
    for name in ("train", "val", "test"):
        make_pattern_folder(tmp_path / "whole" / name, 2)
    for split in (None, "val"):
        found = open_evaluation_set(encoder, str(tmp_path / "whole"), split, 1.0, seed=0)
        assert found.test.splits is not None and found.labelled.splits is not None
        divided[found.split] = (set(found.test.splits), set(found.labelled.splits))
    assert divided == {"test": ({"test"}, {"train", "val"}), "val": ({"val"}, {"train"})}


def test_a_run_with_test_images_of_its_own_is_evaluated_on_them(small: SimclrEncoder, pattern_folder: Path) -> None:
    training = TrainingConfig(max_steps=1, batch_size=8, seed=3)
    config = ClipConfig(data=str(pattern_folder), val_fraction=0.25, test_fraction=0.25, training=training)
    encoder = with_run(small, RunRecord(config=config))
    images = open_evaluation_set(encoder, None, None, 1.0, seed=0)
    source = open_source(str(pattern_folder))
    expected = split_rows(source, 0.25, 0.25, 3)["test"]
    assert images.split == "test" and list(images.test.ids) == [source.ids[row] for row in expected]


def test_a_run_loaded_as_an_encoder_is_divided_as_in_the_run(pattern_run: Run, parts: EvaluationSet) -> None:
    loaded = open_evaluation_set(load(str(pattern_run[0]), "cpu"), parts.data, None, 1.0, seed=0)
    assert list(loaded.test.ids) == list(parts.test.ids) and not loaded.seen


@pytest.mark.parametrize("fraction", [0.25, 0.0])
def test_a_classifier_is_evaluated_on_images_held_out(fraction: float, pattern_folder: Path, tmp_path: Path) -> None:
    """Where it held out nothing, what is evaluated on was perhaps trained on."""
    training = TrainingConfig(max_steps=1, batch_size=8, validations=1, device="cpu", seed=5)
    model = ViTConfig(patch_size=8, embed_dim=8, num_layers=1, num_heads=1, dim_feedforward=8)
    config = ClassificationConfig(
        data=str(pattern_folder), image_size=16, val_fraction=fraction, model=model, training=training
    )
    train_classifier(config, tmp_path / "run")
    source = open_source(str(pattern_folder))
    expected = split_rows(source, fraction or 0.2, 0.0, 5)["val"]
    for data in (str(pattern_folder), os.path.relpath(pattern_folder)):
        images = open_evaluation_set(load(str(tmp_path / "run"), "cpu"), data, None, 1.0, seed=0)
        assert list(images.test.ids) == [source.ids[row] for row in expected]
        assert images.seen == (fraction == 0)
    other = make_pattern_folder(tmp_path / "other", 10)
    assert not open_evaluation_set(load(str(tmp_path / "run"), "cpu"), str(other), None, 1.0, seed=0).seen


def test_encoders_of_other_kinds_may_have_seen_all_of_their_source(small: SimclrEncoder, pattern_folder: Path) -> None:
    encoder = with_run(small, small.run)
    assert not open_evaluation_set(encoder, None, None, 1.0, seed=0).seen
    encoder.kind = "clip"  # type: ignore[misc]
    assert open_evaluation_set(encoder, None, None, 1.0, seed=0).seen


def renamed(pattern_folder: Path, target: Path, extra: int = 0) -> Path:
    """The run's images under another name, with some more of one class."""
    shutil.copytree(pattern_folder, target)
    for number in range(extra):
        shutil.copy(target / "fine" / "00.png", target / "fine" / f"more{number}.png")
    return target


def test_a_changed_or_renamed_source_does_not_pass_for_unseen_images(
    encoder: SimclrEncoder, parts: EvaluationSet, pattern_run: Run, pattern_folder: Path, tmp_path: Path
) -> None:
    same = renamed(pattern_folder, tmp_path / "same")
    changed = renamed(pattern_folder, tmp_path / "changed", extra=3)
    for images in (encoder, load(str(pattern_run[0]), "cpu")):
        moved = open_evaluation_set(images, str(same), None, 1.0, seed=0)
        assert not moved.seen and list(moved.test.ids) == list(parts.test.ids)
    run = encoder.run
    assert run is not None
    there = replace(run, config=replace(run.config, data=str(changed)))  # more images since, under the same name
    since = open_evaluation_set(with_run(encoder, there), None, None, 1.0, seed=0)
    assert since.seen and set(since.test.ids) != set(parts.test.ids)


def test_images_of_another_source_are_no_images_of_the_run(encoder: SimclrEncoder, tmp_path: Path) -> None:
    for name in ("train", "test"):
        make_pattern_folder(tmp_path / "other" / name, 2)
    assert not open_evaluation_set(encoder, str(tmp_path / "other"), None, 1.0, seed=0).seen


def test_a_run_without_a_digest_knows_its_source_by_path(
    encoder: SimclrEncoder, parts: EvaluationSet, pattern_folder: Path, tmp_path: Path
) -> None:
    older = encoder.save_pretrained(tmp_path / "older")
    content = json.loads((older / "config.json").read_text())
    del content["training"]["source_digest"]
    (older / "config.json").write_text(json.dumps(content))
    for images in (SimclrEncoder.from_pretrained(tmp_path / "older", "cpu"), load(str(tmp_path / "older"), "cpu")):
        found = open_evaluation_set(images, None, None, 1.0, seed=0)
        assert not found.seen and list(found.test.ids) == list(parts.test.ids)


def test_why_there_is_nothing_to_evaluate_on(small: SimclrEncoder, tmp_path: Path) -> None:
    singles = make_pattern_folder(tmp_path / "singles", 1)
    (singles / "fine" / "broken.png").unlink()
    with pytest.raises(DataError, match=r"no class of '.*singles' has two images"):
        open_evaluation_set(small, str(singles), None, 1.0, seed=0)
    assert small.run is not None
    gone = replace(small.run, config=replace(small.run.config, data=str(tmp_path / "gone")))
    lost = with_run(small, gone)
    with pytest.raises(DataError, match=r"other was trained on '.*gone', .* labelled source with --data.* no data sou"):
        open_evaluation_set(lost, None, None, 1.0, seed=0)


class NetworkAsEncoder(nn.Module):
    """Its attribute `training` says whether it is in training."""

    name = "module"

    def encode_image(self, images: object, *, normalize: bool = True) -> torch.Tensor:
        raise NotImplementedError


def test_a_network_of_torch_can_be_an_encoder(pattern_folder: Path) -> None:
    images = open_evaluation_set(NetworkAsEncoder(), str(pattern_folder), None, 1.0, seed=0)
    assert not images.seen and len(images.test) == 9
    with pytest.raises(DataError, match="module does not say what it was trained on"):
        open_evaluation_set(NetworkAsEncoder(), None, None, 1.0, seed=0)


def test_labels_from_one_source_and_images_of_another(encoder: SimclrEncoder, tmp_path: Path) -> None:
    first, second = make_pattern_folder(tmp_path / "a", 6), make_pattern_folder(tmp_path / "b", 2)
    names = sorted(path.name for path in second.iterdir())
    (second / names[0]).rename(second / names[0].upper())
    (second / names[1]).rename(second / "zz-other")
    images = open_evaluation_set(encoder, str(second), None, 1.0, 0, train_data=str(first))
    assert images.split == "all" and images.train_data == str(first) and not images.seen
    assert images.test.class_names == images.pool.class_names == tuple(names)
    assert images.test.labels is not None
    found = dict(zip(images.test.ids, images.test.labels.tolist(), strict=True))
    assert {id.split("/")[0]: label for id, label in found.items()} == {names[0].upper(): 0, names[2]: 2}
    assert [row.reason for row in images.test.skipped] == [f"3 images of classes that {str(first)!r} has not: zz-other"]
    with pytest.raises(ConfigError, match="the very images of the evaluation"):
        open_evaluation_set(encoder, str(second), None, 1.0, 0, train_data=f"{second}/.")
    for name in names:
        shutil.move(first / name, first / f"x{name}")
    with pytest.raises(DataError, match="have no class in common"):
        open_evaluation_set(encoder, str(second), None, 1.0, 0, train_data=str(first))


def test_splits_of_two_sources(encoder: SimclrEncoder, tmp_path: Path) -> None:
    for source in ("a", "b"):
        for split in ("train", "val", "test"):
            make_pattern_folder(tmp_path / source / split, 2)
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    used = {}
    for split in (None, "val", "all"):
        images = open_evaluation_set(encoder, second, split, 1.0, 0, train_data=first)
        assert images.test.splits is not None and images.pool.splits is not None
        used[images.split] = (set(images.test.splits), set(images.pool.splits))
    assert used == {
        "test": ({"test"}, {"train", "val"}),
        "val": ({"val"}, {"train", "val"}),
        "all": ({"train", "val", "test"}, {"train", "val"}),
    }
    with pytest.raises(DataError, match="has no split 'test' to evaluate on"):
        open_evaluation_set(encoder, str(make_pattern_folder(tmp_path / "flat", 2)), "test", 1.0, 0, train_data=first)
