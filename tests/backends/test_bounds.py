"""Error bounds: the rules hold, correct results stay well within the bounds, and wrong results exceed them."""

from typing import Any

import numpy as np
import pytest

from deepnotes.backends.bounds import UNIT, BoundedArray, Bounds, Rules, excess, gamma, sum_factor

DTYPES = ["float32", "float64"]


def draw_bounded(
    rules: Rules, *shape: int, seed: int = 0, low: float = -3, high: float = 3, error: float = 0.01
) -> BoundedArray:
    """Return random numbers with errors of at most `error`, some of which are 0."""
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0, error, shape) * rng.integers(0, 2, shape)
    return BoundedArray(rules, rng.uniform(low, high, shape).astype(rules.wide), errors)


def _largest(xp: Any, x: Any) -> Any:
    """Return 1 for the largest elements of each column, and 0 for the others."""
    return xp.astype(xp.equal(x, xp.max(x, axis=0, keepdims=True)), x.dtype)


FUNCTIONS: dict[str, tuple[Any, dict[str, float]]] = {
    "add": (lambda xp, x, y: x + y, {}),
    "subtract": (lambda xp, x, y: x - y, {}),
    "subtract from a number": (lambda xp, x, y: 1 - x, {}),
    "multiply": (lambda xp, x, y: x * y, {}),
    "divide": (lambda xp, x, y: x / y, {"low": 0.05}),
    "divide a number": (lambda xp, x, y: 2 / y, {"low": 0.05}),
    "matmul": (lambda xp, x, y: x @ y.T, {}),
    "exp": (lambda xp, x, y: xp.exp(x), {}),
    "expm1": (lambda xp, x, y: xp.expm1(x), {}),
    "log": (lambda xp, x, y: xp.log(x), {"low": 0.05}),
    "log1p": (lambda xp, x, y: xp.log1p(x), {"low": -0.9}),
    "sqrt": (lambda xp, x, y: xp.sqrt(x), {"low": 0.02}),
    "tanh": (lambda xp, x, y: xp.tanh(x), {}),
    "sign": (lambda xp, x, y: xp.sign(x), {"low": -0.01, "high": 0.01}),
    "maximum": (lambda xp, x, y: xp.maximum(x, y), {"low": 0, "high": 0.02}),
    "minimum": (lambda xp, x, y: xp.minimum(x, y), {"low": 0, "high": 0.02}),
    "where": (lambda xp, x, y: xp.where(x > y, 3 * x, -y), {"low": 0, "high": 0.02}),
    "step function": (lambda xp, x, y: xp.astype(x > 0, x.dtype), {"low": -0.01, "high": 0.01}),
    "conditions": (lambda xp, x, y: xp.where(((x > y) & (y > 0.01)) ^ (x > 0.01), x, -y), {"low": 0, "high": 0.02}),
    "share of the largest": (lambda xp, x, y: _largest(xp, x) / xp.sum(_largest(xp, x), axis=0, keepdims=True), {}),
    "sum": (lambda xp, x, y: xp.sum(x, axis=1), {}),
    "max": (lambda xp, x, y: xp.max(x, axis=0), {"low": 0, "high": 0.02}),
    "a chain": (lambda xp, x, y: xp.log(1 + xp.exp(-(x * y))) / (2 + xp.tanh(y)), {}),
}
"""Functions of two arrays, each with the range of the numbers to draw."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_within_bounds_for_all_arguments_within_bounds(name: str, dtype: str) -> None:
    """Arguments moved by their full errors, or by random fractions of these, give results within the bounds."""
    function, limits = FUNCTIONS[name]
    bounds = Bounds(dtype)
    rng = np.random.default_rng(1)
    arguments = [draw_bounded(bounds.rules, 20, 30, seed=seed, **limits) for seed in (0, 1)]
    expected = function(bounds.xp, *arguments)
    for fraction in (-1.0, 1.0, None, None):
        moved_arguments = [
            BoundedArray(
                bounds.rules, x.value + x.error * (rng.uniform(-1, 1, x.shape) if fraction is None else fraction), 0.0
            )
            for x in arguments
        ]
        result = function(bounds.xp, *moved_arguments).value
        slack = 1 + 1e-9  # for the rounding errors of this test
        assert np.all(abs(result - expected.value) <= slack * expected.error * bounds.rules.slack)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [3, 7, 64, 1000, 5000])
def test_errors_of_numpys_products_and_sums_are_well_below_their_bounds(k: int, dtype: str) -> None:
    """The largest of about a thousand errors is below 75% of its bound, or below 90% for a sum of three terms."""
    rng = np.random.default_rng(k)
    bounds = Bounds(dtype)
    for low in (-1, 1):  # terms of both signs, whose partial sums stay small; positive terms, whose partial sums grow
        A, B = rng.uniform(low, 2, (64, k)).astype(dtype), rng.uniform(low, 2, (k, 16)).astype(dtype)
        row_sums = bounds.xp.sum(bounds.from_numpy(A), axis=1)
        product = excess(A @ B, bounds.from_numpy(A) @ bounds.from_numpy(B)).max()
        pairwise, sequential = (
            excess(A.sum(axis=1), row_sums).max(),
            excess(np.cumsum(A, axis=1)[:, -1], row_sums).max(),
        )
        assert max(product, pairwise, sequential) < (0.9 if k < 5 else 0.75)
        assert sequential > 0.02 / bounds.rules.slack or low < 0  # the bound is not far too wide


@pytest.mark.parametrize("k", [64, 4096])
def test_wrong_products_exceed_their_bounds(k: int) -> None:
    """Missing terms, factors rounded to TF32, and single instead of double precision exceed the bounds."""
    rng = np.random.default_rng(k)
    A, B = rng.normal(size=(32, k)).astype("float32"), rng.normal(size=(k, 32)).astype("float32")
    bounds = Bounds("float32")
    expected = bounds.from_numpy(A) @ bounds.from_numpy(B)
    assert excess(A[:, :-1] @ B[:-1], expected).max() > 100

    def round_to_tf32(x: np.ndarray) -> np.ndarray:
        return ((x.view(np.int32) + 0x1000) & ~0x1FFF).view(np.float32)

    assert excess(round_to_tf32(A) @ round_to_tf32(B), expected).max() > 2
    tf32_bounds = Bounds("float32", "tf32")
    assert excess(round_to_tf32(A) @ round_to_tf32(B), tf32_bounds.from_numpy(A) @ tf32_bounds.from_numpy(B)).max() < 1
    double = Bounds("float64")
    wide = double.from_numpy(A.astype("float64")) @ double.from_numpy(B.astype("float64"))
    assert excess((A @ B).astype("float64"), wide).max() > 1e6


def test_sum_factors_match_their_formulas_for_random_and_worst_case_terms() -> None:
    u = UNIT["float32"]
    assert gamma(3, u) == 3 * u / (1 - 3 * u)
    assert sum_factor(1, u, random=True) == gamma(1, u)
    assert sum_factor(100, u, random=True) == 20 * u
    assert sum_factor(100, u, random=False) == gamma(100, u)
    assert gamma(2**24, u) == np.inf


def test_sums_of_constants_exceed_random_bounds_but_not_worst_case_bounds() -> None:
    """In a sequential sum of 0.1, many successive roundings have the same sign."""
    x = np.full((1, 20_000), 0.1, "float32")
    result = np.cumsum(x, axis=1)[:, -1]
    random, worst_case = (Bounds("float32", random=random) for random in (True, False))
    assert excess(result, random.xp.sum(random.from_numpy(x), axis=1)).max() > 1
    assert excess(result, worst_case.xp.sum(worst_case.from_numpy(x), axis=1)).max() < 1


def test_both_slopes_are_accepted_near_a_kink() -> None:
    bounds = Bounds("float32")
    Z = BoundedArray(bounds.rules, np.array([[1e-9, 1e-9, 0.0, 0.0]]), np.array([[0.0, 1e-8, 0.0, 1e-8]]))
    dA = bounds.from_numpy(np.ones((1, 4), "float32"))
    dZ = bounds.ops.relu_backward(dA, Z, Z)
    assert (excess(np.zeros((1, 4), "float32"), dZ) <= 1).tolist() == [[False, True, True, True]]
    assert (excess(np.ones((1, 4), "float32"), dZ) <= 1).tolist() == [[True, True, False, True]]


def test_nan_and_infinity_have_to_match() -> None:
    rules = Rules("float32")
    expected = rules.with_errors(
        np.array([np.nan, np.inf, -np.inf, 1.0, 3.402823e38, 1e39]), np.array([1.0, 1, 1, 1e-7, 1e34, 1.0])
    )
    nan, inf = np.nan, np.inf
    right = np.array([nan, inf, -inf, 1, inf, inf], "float32")
    assert (excess(right, expected) == 0).all()
    wrong = np.array([inf, nan, inf, nan, nan, -inf], "float32")
    assert np.isinf(excess(wrong, expected)).all()


def test_a_condition_is_uncertain_only_if_an_uncertain_one_decides_it() -> None:
    rules = Bounds("float64").rules
    uncertain = BoundedArray(rules, np.array([True, True, False, False]), [1, 1, 1, 1])
    certain = rules.exact(np.array([True, False, True, False]))
    assert (uncertain & certain).error.tolist() == [1, 0, 1, 0]
    assert (uncertain ^ certain).error.all()
    assert not (certain & certain).error.any()


def test_the_element_that_attains_a_maximum_is_certain_unless_another_one_may() -> None:
    bounds = Bounds("float64")
    x = BoundedArray(bounds.rules, np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 2.1]]), 0.2)
    largest = bounds.rules.equal(x, bounds.rules.max(x, axis=0, keepdims=True))
    assert largest.value.tolist() == [[False, False], [True, False], [False, True]]
    assert largest.error.tolist() == [[0, 0], [0, 1], [0, 1]]


def test_exact_results_have_no_error() -> None:
    """Zeros from ReLU and masks, sums of zeros, and integers of int64."""
    bounds: Any = Bounds("float32")
    x = bounds.from_numpy(np.array([[-1.0, 2.0]], "float32"))
    assert bounds.ops.relu(x).error.tolist() == [[0, 0]]
    assert (x * bounds.xp.zeros((1, 2))).error.tolist() == [[0, 0]]
    assert bounds.xp.sum(bounds.xp.zeros((3, 4)), axis=0).error.tolist() == [0] * 4
    assert (bounds.xp.arange(5, dtype=bounds.xp.int64) * 3).error.tolist() == [0] * 5
