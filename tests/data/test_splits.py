"""Dividing rows: every row once, no group divided, every class in every part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from opsin.data.splits import split_rows
from opsin.errors import DataError
from opsin.sources.image_source import ImageSource


def make_source(count: int, **columns: np.ndarray) -> ImageSource:
    return ImageSource(
        name="numbers",
        ids=[str(row) for row in range(count)],
        loader=lambda row: Image.new("RGB", (1, 1)),
        rows=np.arange(count),
        **columns,  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(1, 5),
    groups=st.integers(1, 30),
    count=st.integers(1, 80),
    fractions=st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)),
    seed=st.integers(0, 9),
)
def test_every_row_is_in_one_part_and_no_group_in_two(
    classes: int, groups: int, count: int, fractions: tuple[float, float], seed: int
) -> None:
    group = np.random.default_rng(seed).integers(0, groups, count)
    source = make_source(count, groups=group, labels=group % classes)
    rows = split_rows(source, *fractions, seed=seed)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(count))
    parts = [set(group[part]) for part in rows.values()]
    assert sum(map(len, parts)) == len(set(group))
    assert set(group[rows["train"]] % classes) == set(group % classes)


def test_stratified_by_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    rows = split_rows(make_source(160, labels=labels), val_fraction=0.25, test_fraction=0.2, seed=0)
    assert np.bincount(labels[rows["test"]]).tolist() == [20, 10, 2]
    assert np.bincount(labels[rows["val"]]).tolist() == [20, 10, 2]  # a quarter of what the test has left
    assert np.bincount(labels[rows["train"]]).tolist() == [60, 30, 6]


def test_seed_decides() -> None:
    source = make_source(100)
    first, again, other = (split_rows(source, 0.2, 0.2, seed)["val"] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_small_classes() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2])
    rows = split_rows(make_source(6, labels=labels), val_fraction=0.1, test_fraction=0, seed=0)
    assert sorted(labels[rows["val"]]) == [1, 2]
    assert len(rows["test"]) == 0


def test_splits_of_the_source_are_kept() -> None:
    splits = np.array(["train", "val", "test"] * 4)
    rows = split_rows(make_source(12, splits=splits), 0.5, 0.5, seed=0)
    assert {name: part.tolist() for name, part in rows.items()} == {
        name: np.flatnonzero(splits == name).tolist() for name in ("train", "val", "test")
    }


def test_validation_comes_from_the_training_rows_where_a_source_has_none() -> None:
    splits = np.array(["train"] * 20 + ["test"] * 5)
    rows = split_rows(make_source(25, splits=splits), val_fraction=0.1, test_fraction=0.5, seed=0)
    assert rows["test"].tolist() == list(range(20, 25))
    assert len(rows["val"]) == 2
    assert (rows["val"] < 20).all()


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="'numbers' has no images to train on"):
        split_rows(make_source(3, splits=np.array(["test"] * 3)), 0.1, 0.1, seed=0)
