"""Which images an encoder is judged on, and which labels it may use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from opsin.data.sources import open_source
from opsin.data.splits import split_rows
from opsin.simclr.data import rows_of_run
from opsin.simclr.inference import SimclrEncoder
from opsin.simclr.judged_data import JudgedData, open_judged

from .conftest import make_pattern_folder, tiny_config


def test_images_are_divided_as_in_the_run(encoder: SimclrEncoder, parts: JudgedData, pattern_folder: Path) -> None:
    source = open_source(str(pattern_folder))
    rows = rows_of_run(source, tiny_config(pattern_folder))
    assert parts.split == "val" and parts.data == str(pattern_folder)
    assert list(parts.test.ids) == [source.ids[row] for row in rows["val"]]
    assert sorted(parts.labelled.ids) == [source.ids[row] for row in rows["train"]]
    some = open_judged(encoder, None, None, 0.25, seed=0).labelled
    assert some.labels is not None and np.bincount(some.labels).tolist() == [3, 3, 3]
    assert list(some.ids) == list(parts.labelled.ids[: len(some)])


def test_other_sources_are_divided_by_their_splits_or_evenly(encoder: SimclrEncoder, tmp_path: Path) -> None:
    other = make_pattern_folder(tmp_path / "other", 10)
    divided = open_judged(encoder, str(other), None, 1.0, seed=0)
    assert divided.test.labels is not None and np.bincount(divided.test.labels).tolist() == [2, 2, 2]
    assert not set(divided.test.ids) & set(divided.labelled.ids)
    divided = {}
    for name in ("train", "val", "test"):
        make_pattern_folder(tmp_path / "whole" / name, 2)
    for split in (None, "val"):
        found = open_judged(encoder, str(tmp_path / "whole"), split, 1.0, seed=0)
        assert found.test.splits is not None and found.labelled.splits is not None
        divided[found.split] = (set(found.test.splits), set(found.labelled.splits))
    assert divided == {"test": ({"test"}, {"train", "val"}), "val": ({"val"}, {"train"})}


def test_a_run_with_test_images_of_its_own_is_judged_on_them(small: SimclrEncoder, pattern_folder: Path) -> None:
    training = {"data": str(pattern_folder), "val_fraction": 0.25, "test_fraction": 0.25, "training": {"seed": 3}}
    encoder = SimclrEncoder("other", small.model, replace(small.description, training=training), "32")
    judged = open_judged(encoder, None, None, 1.0, seed=0)
    source = open_source(str(pattern_folder))
    expected = split_rows(source, 0.25, 0.25, 3)["test"]
    assert judged.split == "test" and list(judged.test.ids) == [source.ids[row] for row in expected]
