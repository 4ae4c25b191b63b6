"""If the arithmetic of error bounds overflows, the value or the bound is infinite, and no warning is raised."""

from typing import Any

import numpy as np
import pytest
from test_bounds import DTYPES, FUNCTIONS

import deepnotes as dn
from deepnotes.backends.bounds import BoundedArray, Bounds, excess
from deepnotes.testing.calls import CALLS, VARIANTS, call
from deepnotes.testing.checks import Trial
from deepnotes.testing.properties import StyledDraw


class LargeDraw(StyledDraw):
    """Draws numbers whose exponentials overflow."""

    def real(self, *shape: int) -> np.ndarray:
        return 300 * super().real(*shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CALLS if name.removesuffix("_backward") + "_backward" in CALLS])
def test_equations_overflow_without_a_warning(name: str, dtype: str) -> None:
    """No warning is raised, whatever the caller's ``np.errstate``."""
    for seed in range(5):
        arguments = CALLS[name](LargeDraw(np.random.default_rng(seed), "random"), 2, 2, 11)
        for options in [{}, *VARIANTS.get(name, [])]:
            with np.errstate(over="raise", invalid="raise"):
                Trial(dn.get_backend("numpy"), name).check(call(name, options), arguments, dtype, name, random=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules_overflow_without_a_warning(name: str, dtype: str) -> None:
    bounds = Bounds(dtype)
    for value in (800.0, 1e5, 1e38, 1e300, np.inf, -np.inf, np.nan, 0.0, 5e-324):
        for error in (0.0, 1e-3, 1e200, np.inf):
            x = BoundedArray(bounds.rules, np.full((3, 4), value, bounds.rules.wide), error)
            with np.errstate(all="raise"):
                result = FUNCTIONS[name][0](bounds.xp, x, x)
            assert not np.isnan(result.error).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_infinite_if_it_overflows_and_unbounded_for_an_unbounded_argument(dtype: str) -> None:
    bounds = Bounds(dtype)
    x = np.array([[2e4, 2e4, 1.0, 1.0]])
    expected = bounds.xp.exp(BoundedArray(bounds.rules, x.astype(bounds.rules.wide), [[0.0, 1e-3, 1e-3, np.inf]]))

    def is_accepted(result: Any) -> list[bool]:
        multiples: np.ndarray = excess(np.full((1, 4), result, dtype), expected)
        return [bool(accepted) for accepted in multiples[0] <= 1]

    assert is_accepted(np.inf) == [True, True, False, True]
    assert is_accepted(-np.inf) == [False, False, False, True]
    assert is_accepted(np.exp(1.0)) == [False, False, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["log", "log1p", "sqrt"])
def test_infinity_is_accepted_of_a_function_of_a_value_that_may_overflow(name: str, dtype: str) -> None:
    bounds = Bounds(dtype)
    largest = np.finfo(dtype).max
    x = BoundedArray(bounds.rules, np.array([[largest, largest / 4]], bounds.rules.wide), largest / 8)
    multiples: np.ndarray = excess(np.full((1, 2), np.inf, dtype), getattr(bounds.xp, name)(x))
    assert [bool(accepted) for accepted in multiples[0] <= 1] == [True, False]


@pytest.mark.parametrize("join", [lambda a, b: a & b, lambda a, b: a ^ b])
def test_a_condition_joined_with_an_uncertain_one_is_uncertain(join: Any) -> None:
    rules = Bounds("float64").rules
    x = BoundedArray(rules, np.array([[1.0, 3.0]], rules.wide), 0.5)
    joined = join(x < 1.2, x < 9)
    chosen = rules.where(joined, rules.exact(np.ones((1, 2))), rules.exact(np.zeros((1, 2))))
    assert (chosen.error > 0).tolist() == [[True, False]]
