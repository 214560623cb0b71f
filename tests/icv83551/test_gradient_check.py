"""Centred differences against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icv83551.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array


def test_scalar_function_against_autograd(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 2))
    before = x.copy()
    gradient = eval_numerical_gradient(lambda x: float(np.sum(np.sin(x) ** 3)), x, verbose=False)
    leaf = torch.tensor(x, requires_grad=True)
    (leaf.sin() ** 3).sum().backward()
    assert gradient.shape == x.shape
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-6, atol=1e-9)
    assert (x == before).all()
    assert capsys.readouterr() == ("", "")


def test_array_function_against_autograd() -> None:
    rng = np.random.default_rng(0)
    x, weight, df = rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    before = x.copy()
    gradient = eval_numerical_gradient_array(lambda x: np.tanh(x @ weight), x, df)
    leaf = torch.tensor(x, requires_grad=True)
    (leaf @ torch.tensor(weight)).tanh().backward(torch.tensor(df))
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-6, atol=1e-9)
    assert (x == before).all()


def test_verbose_prints_every_element(capsys: pytest.CaptureFixture[str]) -> None:
    eval_numerical_gradient(lambda x: float(x @ [1.0, 2.0]), np.zeros(2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(") ")[0] + ")" for line in lines] == ["(0,)", "(1,)"]
    assert [float(line.split(") ")[1]) for line in lines] == pytest.approx([1, 2])


def test_step_is_the_one_asked_for() -> None:
    """The difference quotient of x³ at 0 is exactly h²."""
    x = np.zeros(1)
    assert eval_numerical_gradient(lambda x: float(x[0] ** 3), x, False, h=0.5) == pytest.approx([0.25])
    assert eval_numerical_gradient_array(lambda x: x**3, x, np.ones(1), h=0.5) == pytest.approx([0.25])
    assert eval_numerical_gradient(lambda x: float(x[0] ** 3), x, False) == pytest.approx([1e-10], abs=1e-20)


def test_function_may_look_at_the_array_by_another_name() -> None:
    """The course's notebooks ignore the argument and read a parameter that is changed in place."""
    parameter = np.array([2.0, 3.0])
    gradient = eval_numerical_gradient(lambda _: float(np.prod(parameter)), parameter, verbose=False)
    assert gradient == pytest.approx([3, 2])


def test_function_may_return_one_buffer_again_and_again() -> None:
    buffer = np.zeros(2)

    def square(x: np.ndarray) -> np.ndarray:
        return np.multiply(x, x, out=buffer)

    assert eval_numerical_gradient_array(square, np.array([2.0, 3.0]), np.ones(2)) == pytest.approx([4, 6])


def test_array_is_restored_when_the_function_fails() -> None:
    x = np.ones(2)

    def fail(x: np.ndarray) -> float:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        eval_numerical_gradient(fail, x)
    assert x.tolist() == [1, 1]
