"""Which images of a source are trained on and judged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from opsin.data.splits import evaluation_split, first_of_random_order
from opsin.errors import DataError
from opsin.sources.image_source import ImageSource


def make_source(*splits: str) -> ImageSource:
    """An image for each split that is named; of no splits, four images."""
    count = len(splits) or 4
    return ImageSource(
        name="some",
        ids=[f"id{row}" for row in range(count)],
        loader=lambda row: Image.new("RGB", (2, 2)),
        rows=np.arange(count),
        splits=np.array(splits) if splits else None,
    )


def test_first_of_a_random_order() -> None:
    rows = np.array([3, 5, 8, 13, 21, 34])
    whole = [set(first_of_random_order(rows, count, 7)) for count in range(1, 7)]
    for fewer, more in zip(whole, whole[1:], strict=False):
        assert fewer < more  # a longer run sees what a shorter one saw
    assert whole[-1] == set(rows)
    np.testing.assert_array_equal(first_of_random_order(rows, None, 7), rows)
    np.testing.assert_array_equal(first_of_random_order(rows, 3, 7), sorted(whole[2]))
    assert any(set(first_of_random_order(rows, 3, seed)) != whole[2] for seed in range(5))


def test_another_source_is_judged_on_its_test_split_or_whole() -> None:
    divided = make_source("train", "test", "val", "test")
    part, split = evaluation_split(divided, None, None)
    assert (part.ids, split) == (["id1", "id3"], "test")
    assert evaluation_split(divided, "val", None)[0].ids == ["id2"]
    assert evaluation_split(divided, "all", None)[0].ids == divided.ids
    for source in (make_source(), make_source("train", "val")):
        part, split = evaluation_split(source, None, None)
        assert (part.ids, split) == (source.ids, "all")
    with pytest.raises(DataError, match="no split 'test'"):
        evaluation_split(make_source("train", "val"), "test", None)


def test_own_source_is_judged_on_what_the_run_held_out() -> None:
    source = make_source()
    nothing = np.zeros(0, dtype=np.int64)
    rows = {"train": np.array([0, 2]), "val": np.array([1]), "test": np.array([3])}
    for asked, ids, split in (
        (None, ["id3"], "test"),
        ("val", ["id1"], "val"),
        ("train", ["id0", "id2"], "train"),
        ("all", source.ids, "all"),
    ):
        part, name = evaluation_split(source, asked, rows)
        assert (part.ids, name) == (ids, split)
    part, split = evaluation_split(source, None, {**rows, "test": nothing})
    assert (part.ids, split) == (["id1"], "val")
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, val, test, all \(--split all is everything"):
        evaluation_split(source, "dev", rows)
    everything = {"train": np.arange(4), "val": nothing, "test": nothing}
    with pytest.raises(DataError, match="nothing of 'some' was held out from training; judge all .* --split all"):
        evaluation_split(source, None, everything)
    with pytest.raises(DataError, match="no split 'val'; it has train, all"):
        evaluation_split(source, "val", everything)


def test_what_a_run_held_out_of_a_source_that_has_changed_cannot_be_told() -> None:
    rows = {"train": np.array([0, 2]), "val": np.array([1]), "test": np.array([3])}
    for split in (None, "val", "train"):
        with pytest.raises(DataError, match="'some' has other images now .* --split all, or other images with --data"):
            evaluation_split(make_source(), split, rows, has_changed=True)
    assert len(evaluation_split(make_source(), "all", rows, has_changed=True)[0]) == 4
    own = make_source("train", "val", "train", "test")  # the source says itself which images are for judging
    assert evaluation_split(own, None, rows, has_changed=True)[1] == "test"
