"""Tables of embeddings: what they may hold besides what the course's has, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opsin.diffusion.text import TextTable
from opsin.errors import DataError

from .test_training import write_table


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, torch.tensor])
def test_rows_are_whole_numbers_of_any_kind(kind: type, tmp_path: Path) -> None:
    table = TextTable.load(write_table(tmp_path / "t.pt", idx_mapping={"red": kind(1), "blue": kind(0)}))
    assert table.rows == {"red": 1, "blue": 0}
    assert {type(row) for row in table.rows.values()} == {int}
    assert torch.equal(table.encode_text(["red"], normalize=False)[0], table.embs[1])


@pytest.mark.parametrize(
    "mapping",
    [
        {"red": 1.0},
        {"red": torch.tensor(1.0)},
        {"red": torch.tensor([0, 1])},
        {"red": np.float32(1)},
        {"red": np.int64(2)},
        {"red": torch.tensor(-1)},
        {"red": None},
        {3: 0},
        ["red"],
        "red",
    ],
)
def test_rows_that_are_none(mapping: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="t.pt: idx_mapping must give texts rows of embs, 0 to 1"):
        TextTable.load(write_table(tmp_path / "t.pt", idx_mapping=mapping))


@pytest.mark.parametrize("key", ["embs", "pca_components", "mean"])
@pytest.mark.parametrize(
    "value", ["zzz", None, [[1.0], [1.0, 2.0]], {"a": 1}, torch.tensor(1j), torch.full((2, 6), torch.nan), np.inf]
)
def test_what_is_no_array_of_numbers(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"t.pt: {key} must be an array of numbers, all of them finite"):
        TextTable.load(write_table(tmp_path / "t.pt", **{key: value}))
