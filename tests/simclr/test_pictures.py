"""Curves of SimCLR have the values that they are given."""

from __future__ import annotations

import pytest

from opsin.simclr.pictures import comparison_figure, knn_curve_figure


def test_the_comparison_has_both_curves() -> None:
    axes = comparison_figure([0.1, 0.12, 0.15], [0.6, 0.7, 0.8]).axes[0]
    curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert curves == {"without pretraining": [0.1, 0.12, 0.15], "with pretraining": [0.6, 0.7, 0.8]}
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]


def test_the_curve_of_neighbours_is_over_minutes() -> None:
    rows = [{"train_loss": 1.0}, {"val_knn_accuracy": 0.2, "seconds": 30.0}, {"val_knn_accuracy": 0.4, "seconds": 90.0}]
    axes = knn_curve_figure(rows, untrained=0.25).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[0.5, 0.2], [1.5, 0.4]]
    assert axes.lines[1].get_ydata()[0] == 0.25
    with pytest.raises(ValueError, match="no row of these metrics has a val_knn_accuracy"):
        knn_curve_figure(rows[:1])
