"""Evaluation mode for a while."""

from __future__ import annotations

import pytest
from torch import nn

from opsin.runtime import evaluating


def test_each_part_gets_its_own_mode_back_also_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))).train()
    model[1][0].eval()  # type: ignore[index]  # a part that the caller has frozen stays as it is
    before = [part.training for part in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(part.training for part in model.modules())
        raise KeyError
    assert [part.training for part in model.modules()] == before
    with evaluating(model.eval()):
        pass
    assert not any(part.training for part in model.modules())
