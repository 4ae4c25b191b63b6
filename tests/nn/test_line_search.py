"""The line search: the strong Wolfe conditions hold for the functions of Moré and Thuente, from near and far."""

from collections.abc import Callable
from math import inf, isinf, sqrt
from typing import Any

import numpy as np
import pytest

from deepnotes.equations import lbfgs_direction
from deepnotes.nn.line_search import Trial, strong_wolfe

Function = Callable[[float], tuple[float, float]]


def rational(a: float) -> tuple[float, float]:
    """Function 1 of J. Moré and D. Thuente, ACM TOMS 20 (1994) 286."""
    return -a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2


def power(a: float) -> tuple[float, float]:
    """Their function 2, whose slope at 0 is small."""
    x = a + 0.004
    return x**5 - 2 * x**4, 5 * x**4 - 8 * x**3


def yanai(a: float, b1: float = 0.001, b2: float = 0.001) -> tuple[float, float]:
    """Their functions 4 to 6."""
    g1, g2 = (sqrt(1 + b * b) - b for b in (b1, b2))
    left, right = sqrt((1 - a) ** 2 + b2 * b2), sqrt(a * a + b1 * b1)
    return g1 * left + g2 * right, g1 * (a - 1) / left + g2 * a / right


def wall(a: float) -> tuple[float, float]:
    """Return a cost that is not finite for large steps."""
    return (-a, -1.0) if a < 0.7 else (inf, inf)


FUNCTIONS: dict[str, Function] = {
    "rational": rational,
    "power": power,
    "yanai": yanai,
    "yanai_left": lambda a: yanai(a, 0.01, 0.001),
    "yanai_right": lambda a: yanai(a, 0.001, 0.01),
    "quadratic": lambda a: ((a - 3) ** 2, 2 * (a - 3)),
}


def search(f: Function, first: float, c1: float = 1e-4, c2: float = 0.9, most: int = 40) -> tuple[Trial, Trial, int]:
    """Return the trial at the start, the trial that was found, and the number of evaluations."""
    calls = [0]

    def evaluate(step: float) -> Trial:
        calls[0] += 1
        return Trial(step, *f(step), None)

    start = Trial(0.0, *f(0.0), None)
    return start, strong_wolfe(evaluate, start, first, c1, c2, most, 1e-12), calls[0]


@pytest.mark.parametrize("c2", [0.9, 0.1, 0.01])
@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_result_satisfies_the_strong_wolfe_conditions(name: str, first: float, c2: float) -> None:
    start, found, evaluations = search(FUNCTIONS[name], first, 1e-4, c2)
    assert found.cost <= start.cost + 1e-4 * found.step * start.slope
    assert abs(found.slope) <= c2 * abs(start.slope)
    assert (found.cost, found.slope) == FUNCTIONS[name](found.step)
    assert evaluations <= 20


def test_a_first_step_that_satisfies_them_needs_one_evaluation() -> None:
    _, found, evaluations = search(FUNCTIONS["quadratic"], 2.9)
    assert (found.step, evaluations) == (2.9, 1)


def test_a_quadratic_needs_one_interpolation() -> None:
    _, found, evaluations = search(FUNCTIONS["quadratic"], 9.0, c2=0.01)
    assert found.step == pytest.approx(3)
    assert evaluations == 2


@pytest.mark.parametrize("first", [0.1, 1.0, 1e6])
def test_costs_that_are_not_finite_are_avoided(first: float) -> None:
    start, found, evaluations = search(wall, first, most=30)
    assert 0 < found.step < 0.7
    assert not isinf(found.cost)
    assert found.cost < start.cost
    assert evaluations <= 30


def test_a_cost_without_a_minimum_ends_after_the_last_evaluation() -> None:
    start, found, evaluations = search(lambda a: (-a, -1.0), 1.0, most=7)
    assert evaluations == 7
    assert found.cost < start.cost
    assert found.step > 7


def test_the_start_is_returned_if_no_step_lowers_the_cost() -> None:
    start, found, evaluations = search(lambda a: (abs(a), -1.0), 1.0, most=9)
    assert found is start
    assert evaluations == 9


def inverse_hessian(S: list[np.ndarray], Y: list[np.ndarray]) -> np.ndarray:
    """Return H of BFGS, as Nocedal and Wright write it as a matrix (6.17), from the scale of the last pair (7.20)."""
    H = np.eye(len(S[0])) * (S[-1] @ Y[-1]) / (Y[-1] @ Y[-1])
    for s, y in zip(S, Y, strict=True):
        V = np.eye(len(s)) - np.outer(y, s) / (y @ s)
        H = V.T @ H @ V + np.outer(s, s) / (y @ s)
    return H


@pytest.mark.parametrize("pairs", [1, 2, 5, 12])
def test_the_two_loops_multiply_by_the_inverse_hessian_of_bfgs(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    A = rng.normal(size=(8, 8))
    A = A @ A.T + np.eye(8)
    S = list(rng.normal(size=(pairs, 8)))
    Y = [A @ s for s in S]
    g = rng.normal(size=8)
    expected = -inverse_hessian(S, Y) @ g
    np.testing.assert_allclose(lbfgs_direction(np, g, S, Y), expected, rtol=1e-9)
    zeros = [np.zeros(8)] * 3
    np.testing.assert_array_equal(
        lbfgs_direction(np, g, zeros + S, zeros + Y),
        lbfgs_direction(np, g, S, Y),
    )


def test_without_pairs_the_direction_is_that_of_steepest_descent() -> None:
    g: Any = np.array([1.0, -2.0])
    zeros: Any = np.zeros(2)
    np.testing.assert_array_equal(lbfgs_direction(np, g, [zeros], [zeros]), -g)
