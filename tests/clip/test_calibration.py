"""The fitted scale against an optimiser of torch, and the calibration error against torchmetrics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from opsin.clip.zero_shot import (
    LARGEST_SCALE,
    cross_fitted_probabilities,
    fit_logit_scale,
    is_fitted,
)
from opsin.training.metrics import expected_calibration_error


def drawn(scale: float, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines, and labels drawn from softmax(scale * cosines)."""
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(count, 5, generator=generator) * 0.4
    return cosines, torch.multinomial((scale * cosines).softmax(dim=1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [3.0, 20.0])
def test_scale_is_where_the_loss_is_lowest(scale: float) -> None:
    cosines, labels = drawn(scale)
    log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(cosines.double() * log_scale.exp(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    fitted = fit_logit_scale(cosines, labels)
    assert fitted == pytest.approx(float(log_scale.detach().exp()), rel=1e-3)
    assert fitted == pytest.approx(scale, rel=0.2) and is_fitted(fitted)


def test_only_right_answers_have_no_best_scale() -> None:
    for cosines in (torch.eye(3), -torch.eye(3)):
        assert not is_fitted(fit_logit_scale(cosines, torch.arange(3)))
    assert fit_logit_scale(torch.eye(3), torch.arange(3)) == pytest.approx(LARGEST_SCALE, rel=1e-3)
    with pytest.raises(ValueError, match="no images"):
        fit_logit_scale(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
def test_calibration_error_is_that_of_torchmetrics(scale: float) -> None:
    cosines, labels = drawn(10.0, 500)
    probabilities = (scale * cosines).softmax(dim=1)
    expected = multiclass_calibration_error(probabilities, labels, num_classes=5, n_bins=15, norm="l1")
    assert expected_calibration_error(probabilities, labels) == pytest.approx(float(expected), abs=1e-5)


def test_calibration_error_of_known_answers() -> None:
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert expected_calibration_error(sure, torch.tensor([0, 0, 0, 0])) == 0
    assert expected_calibration_error(sure, torch.tensor([0, 1, 1, 0])) == 0.5


def test_fitting_to_half_of_the_images_helps_the_other_half() -> None:
    cosines, labels = drawn(5.0)
    fitted = cross_fitted_probabilities(cosines, labels)
    assert expected_calibration_error(fitted, labels) < 0.03
    assert expected_calibration_error((100 * cosines).softmax(dim=1), labels) > 0.3
    torch.testing.assert_close(fitted.sum(dim=1), torch.ones(len(labels)))
