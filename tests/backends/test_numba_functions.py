"""Rounding errors of the Numba backend's elementary functions and activations, in units in the last place (ulp).

Let u be half an ulp of 1; then a relative error of k u is at most k ulp. The bounds for exp, tanh, sigmoid and softplus
are those for which the functions were designed; those for expm1, log and log1p are derived below. The bounds for the
activations are from tests/equations/test_activations.py.
"""

from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pytest
from test_activations import reference, ulps

from deepnotes.equations import EQUATIONS

pytest.importorskip("numba")
from deepnotes.backends import trace
from deepnotes.nn.activations import LIBRARY, Activation
from deepnotes_numba import codes, generated
from deepnotes_numba.kernels import ActivationKernels, activation_kernels

pytestmark = pytest.mark.slow

DTYPES = ["float32", "float64"]
FUNCTIONS = ["exp", "expm1", "tanh", "sigmoid", "log", "log1p", "softplus", "normal_cdf"]
ELEMENTWISE = [name for name in LIBRARY if name not in ("identity", "softmax", "log_softmax")]
OPTIONS = {"leaky_relu": {"slope": 0.3}, "elu": {"alpha": 1.7}}
BOUNDS = {
    "exp": 4,
    "tanh": 3,
    "sigmoid": 5,
    "softplus": 5,
    # The result is 2^n p + (2^n - 1) with p = e^r - 1. The error of p is below 4 u |r|: u |r| for rounding r, u |r| for
    # the sum, and another u |r| for r * r, the series and their product, since r² / 2 is at most a fifth of r. 2^n |r|
    # is at most 1.68 |e^x - 1| (for x = ln(2) / 2 and n = 1), so the error is at most 6.7 u |e^x - 1|, and below 8 u
    # with the last sum.
    "expm1": 8,
    # log m is 2 s plus terms below 1/100 of that, with s = f / (2 + f) and an exact f: 2 u for s, and u for the sum.
    # Adding n ln 2 costs u (n LN2_HIGH is exact); since |n ln 2| is at least twice |log m|, the sum is not smaller than
    # log m. All other roundings together cost u.
    "log": 5,
    # log w, where w is 1 + x rounded, is up to twice the result (for x = u), so its error counts as 2 * 5. The quotient
    # in the correction and the last sum cost 2.
    "log1p": 12,
}


def formula(name: str, xp: Any, x: Any) -> Any:
    """Return a function of FUNCTIONS: a function of the namespace, or an equation."""
    return EQUATIONS[name](xp, x) if name in EQUATIONS and name not in ("exp", "tanh") else getattr(xp, name)(x)


def compute(name: str, x: np.ndarray) -> np.ndarray:
    """Return a function of each element of x, by a generated kernel."""
    kernel = generated.activation(trace(partial(formula, name), ["Z"], x.dtype.name), ())
    x, out = np.ascontiguousarray(x), np.empty_like(x)
    kernel.function(x.ctypes.data, out.ctypes.data, 1, len(x), kernel.constants.ctypes.data)
    return out


def reference_values(name: str, x: np.ndarray) -> np.ndarray:
    """Evaluate a function in a wider type: float64 for float32, and long double for float64."""
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            return 1 / (1 + np.exp(np.negative(wide)))
        if name == "softplus":
            return np.logaddexp(0, wide)
        if name == "normal_cdf":
            return EQUATIONS["normal_cdf"](np, wide)  # its error is bounded in tests/equations/test_activations.py
        return getattr(np, name)(wide)


def grid(name: str, dtype: str) -> np.ndarray:
    """Return numbers of all exponents and signs, equidistant numbers near 0, and the ends of reduction intervals."""
    float_type = np.dtype(dtype)
    info, bits = np.finfo(float_type), 8 * float_type.itemsize
    patterns = np.arange(1 << 18, dtype=f"u{float_type.itemsize}") * ((1 << (bits - 18)) + 1)
    patterns = patterns.view(float_type)[~np.isnan(patterns.view(float_type))]
    line = np.linspace(-1, 1, 200_001)
    log_smallest = float(np.log(info.smallest_subnormal))
    # The n of the reduction changes at odd multiples of ln(2) / 2; for tanh, which reduces 2x, at half of them.
    halves = np.arange(-2 * 1075, 2 * 1025) * np.log(2) / 2
    edges = [*halves, *halves / 2, -1, 1, 1 / 2, 2, 4 / 3]
    edges += [log_smallest, log_smallest - np.log(2), float(np.log(info.max))]
    edges += [a * b for a in (np.sqrt(0.5), np.sqrt(2)) for b in 2.0 ** np.arange(-20, 21)]
    x = np.concatenate([line, 1.1 * log_smallest * line, edges]).astype(float_type)
    with np.errstate(all="ignore"):
        neighbours = [np.nextafter(x, float_type.type(end)) for end in (-np.inf, np.inf)]
        x = np.concatenate([patterns, x, *neighbours])
        return x[(x > -1) & (x <= 1)] if name == "log1p" else x


def assert_within(name: str, out: np.ndarray, true: np.ndarray, bound: Any) -> None:
    """Check that each error is at most `bound` ulp of the true value, where an ulp is a spacing of `out.dtype`.

    As the reciprocal of an exponential, sigmoid may be 0 instead of a subnormal number.
    """
    underflow = float(np.finfo(out.dtype).smallest_normal) if name == "sigmoid" else 0.0
    with np.errstate(all="ignore"):
        rounded = true.astype(out.dtype)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(out[~finite], rounded[~finite])
        errors = np.maximum(abs(out - true) - underflow, 0) / np.spacing(abs(rounded))
        over = np.flatnonzero(finite & ~(errors <= bound))
    assert not len(over), (name, errors[over].max(), true[over[:5]], out[over[:5]])


@pytest.mark.parametrize(
    ("name", "dtype"), [(f, d) for f in FUNCTIONS for d in DTYPES if (f, d) != ("normal_cdf", "float64")]
)
def test_the_error_of_every_function_is_within_its_bound(name: str, dtype: str) -> None:
    """The formula 2 σ(2x) - 1 for tanh would be off by 10^7 ulp near 0, as would log(1 + e^x) where it is near 0."""
    if dtype == "float64" and np.finfo(np.longdouble).eps > np.finfo(dtype).eps / 256:
        pytest.skip("there is no wider type for the reference")
    x = grid(name, dtype)
    bound = 32 + 0.5 * np.minimum(x, 0, dtype=np.float64) ** 2 if name == "normal_cdf" else BOUNDS[name]
    assert_within(name, compute(name, x), reference_values(name, x), bound)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "softplus", "normal_cdf"])
def test_float64_errors_are_within_their_bounds_against_50_digit_references(name: str) -> None:
    """Unlike the test above, this needs no long double and covers normal_cdf, but with fewer numbers."""
    small = 10.0 ** -np.arange(0.0, 309, 11)
    x = np.concatenate([np.linspace(-38.5, 38.5, 155), small, -small])
    numbers = [Decimal(z) for z in x.tolist()]
    for z, out in zip(numbers, compute(name, x).tolist(), strict=True):
        y = z.exp() if name == "exp" else reference(name, z)
        if name == "tanh" and abs(z) < 1e-20:
            y = z  # with an error of z³ / 3; in the reference, the exponentials would need more than 50 digits
        bound = ulps(name, z) if name == "normal_cdf" else BOUNDS[name]
        assert abs(Decimal(out) - y) <= bound * Decimal(float(np.spacing(abs(float(y))))), z


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("exp", {-np.inf: 0, 0.0: 1, np.inf: np.inf}),
        ("expm1", {-np.inf: -1, 0.0: 0, np.inf: np.inf}),
        ("tanh", {-np.inf: -1, 0.0: 0, np.inf: 1}),
        ("sigmoid", {-np.inf: 0, 0.0: 0.5, np.inf: 1}),
        ("log", {-np.inf: np.nan, -1.0: np.nan, -0.0: -np.inf, 1.0: 0, np.inf: np.inf}),
        ("log1p", {-np.inf: np.nan, -2.0: np.nan, -1.0: -np.inf, 0.0: 0, np.inf: np.inf}),
        ("softplus", {-np.inf: 0, np.inf: np.inf}),
        ("normal_cdf", {-np.inf: 0, np.inf: 1}),
    ],
)
def test_values_at_nan_zero_and_infinity_are_exact(name: str, values: dict[float, float], dtype: str) -> None:
    """Each value is tested alone and in a vector that is longer than a register."""
    values = {np.nan: np.nan, **values}
    for length in (1, 33):
        x = np.repeat(np.array([*values], dtype), length)
        np.testing.assert_array_equal(compute(name, x), np.repeat(np.array([*values.values()], dtype), length))
        if 0.0 in values:
            np.testing.assert_array_equal(compute(name, np.zeros(length, dtype) * -1), [values[0.0]] * length)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_finite_and_positive_wherever_the_dtype_allows(dtype: str) -> None:
    """``exp`` overflows only above log(max), and becomes 0 only below the log of half the smallest subnormal number."""
    info = np.finfo(dtype)
    ends = [float(np.log(np.longdouble(x))) for x in (info.max, info.smallest_normal, info.smallest_subnormal)]
    x = np.array([e + step for e in ends for step in (-0.1, 0.1)] + [ends[2] - np.log(2) - 0.1], dtype)
    out = compute("exp", x)
    assert np.isfinite(out[0])
    assert out[1] == np.inf
    assert 0 < out[2] < info.smallest_normal < out[3]
    assert out[4] == info.smallest_subnormal == out[5]
    assert out[6] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd(dtype: str) -> None:
    x = grid("tanh", dtype)
    np.testing.assert_array_equal(compute("tanh", -x), -compute("tanh", x))


def error_bound(name: str, z: Decimal) -> Decimal:
    """Return the bound from tests/equations/test_activations.py, except for elu, which uses the backend's expm1."""
    return Decimal(BOUNDS["expm1"] + 1) if name == "elu" else ulps(name, z)


def kernels_of(name: str, dtype: str, in_place: bool = False) -> ActivationKernels:
    kernels = activation_kernels(Activation(name, **OPTIONS.get(name, {})), dtype, 2, in_place)
    assert kernels is not None
    return kernels


def apply(name: str, Z: np.ndarray, D: np.ndarray, in_place: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return A and dZ as the backend computes them; if `in_place`, A overwrites Z where the backend does that."""
    kernels = kernels_of(name, Z.dtype.name, in_place)
    Z, D = Z.copy(), D.copy()
    A = Z if kernels.code == codes.IN_PLACE else np.full_like(Z, np.nan)
    n, m = Z.shape if Z.ndim == 2 else (1, len(Z))
    z, a, d = (x.ctypes.data for x in (Z, A, D))
    kernels.forward.function(z, a, n, m, kernels.forward.constants.ctypes.data)
    kernels.backward.function(d, z, a, n, m, kernels.backward.constants.ctypes.data)
    return A, D


def expected_results(name: str, Z: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the equations for A and dZ in float64, with options rounded to the dtype of Z."""
    options = {key: float(Z.dtype.type(value)) for key, value in OPTIONS.get(name, {}).items()}
    Z, D = Z[None].astype(np.float64), D[None].astype(np.float64)
    with np.errstate(all="ignore"):
        A = EQUATIONS[name](np, Z, **options)
        return A[0], EQUATIONS[f"{name}_backward"](np, D, Z, A, **options)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 7, 64, 1000])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations_and_their_derivatives_agree_with_the_equations(
    name: str, in_place: bool, length: int, dtype: str
) -> None:
    """The bounds are from test_activations.py, and doubled for float64, where the equations have errors of their own.

    The reciprocal of an exponential near overflow may be off by the smallest normal number, times max(1, abs(z)).
    """
    rng = np.random.default_rng(length)
    Z = np.concatenate([rng.normal(0, 4, 2000), rng.uniform(-120, 120, 200), [0.0, -0.0]]).astype(dtype)
    Z = np.minimum(Z, 80) if name == "exp" else Z
    Z, D = rng.permutation(Z)[:length], rng.normal(size=length).astype(dtype)
    A, dZ = apply(name, Z, D, in_place)
    expected, expected_dZ = expected_results(name, Z, D)
    factor, info = 1 if dtype == "float32" else 2, np.finfo(dtype)
    ulp = np.spacing(abs(expected.astype(dtype))).astype(np.float64)
    bound = np.array([float(error_bound(name, Decimal(z))) for z in Z.tolist()])
    underflow = np.maximum(1, abs(Z)) * float(info.smallest_normal) * (bound > 0)
    assert (abs(A - expected) <= factor * bound * ulp + underflow).all()
    alpha = max([1, *OPTIONS.get(name, {}).values()])
    size = np.maximum(1, expected) if name == "exp" else 1  # the scale of the derivative's terms
    bound = factor * 32 * alpha * (1 + abs(Z)) * size * float(info.eps) / 2
    assert (abs(dZ - expected_dZ) <= abs(D) * bound + underflow).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_infinity_propagate_as_in_the_equations(name: str, dtype: str) -> None:
    """NaN or infinity is placed at each index of a vector of ordinary numbers: first in Z, then in dA."""
    for value in (np.nan, np.inf, -np.inf):
        for index in range(33):
            Z = np.linspace(-2, 2, 33).astype(dtype)
            D = np.ones(33, dtype)
            Z[index] = value
            A, dZ = apply(name, Z, D)
            expected, expected_dZ = expected_results(name, Z, D)
            assert A[index] == expected[index].astype(dtype) or np.isnan([A[index], expected[index]]).all()
            assert not np.isnan(value) or np.isnan(A[index])
            assert np.isnan(dZ[index]) == np.isnan(expected_dZ[index])
            assert np.isfinite(np.delete([A, dZ], index, axis=1)).all()
            _, dZ = apply(name, D, Z)
            assert np.isfinite(dZ[index]) == np.isfinite(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("m", [1, 16, 100])
def test_softmax_and_its_derivative_agree_with_the_equations(m: int, n: int, dtype: str) -> None:
    """Z and dA hold integers from -3 to 3; the bounds are from tests/equations/test_activations.py.

    Columns with NaN or infinity agree with the equations, too, and do not affect other columns.
    """
    Z, D = (np.random.default_rng(seed).integers(-3, 4, (n, m)).astype(dtype) for seed in (n, n + 1))
    if m > 3:
        Z[-1, :3] = np.nan, np.inf, -np.inf
    A, dZ = apply("softmax", Z, D)
    with np.errstate(all="ignore"):
        expected = EQUATIONS["softmax"](np, Z.astype(np.float64))
        expected_dZ = EQUATIONS["softmax_backward"](np, D.astype(np.float64), Z.astype(np.float64), expected)
    u, factor = float(np.finfo(dtype).eps) / 2, 1 if dtype == "float32" else 2
    np.testing.assert_array_equal(np.isnan(A), np.isnan(expected))
    ulp = np.spacing(expected.astype(dtype)).astype(np.float64)
    assert (np.isnan(expected) | (abs(A - expected) <= factor * (2 * 4 + n) * ulp)).all()
    np.testing.assert_array_equal(np.isnan(dZ), np.isnan(expected_dZ))
    bound = factor * (6 * (16 + n + 2) + 3 * (16 + 2 * n)) * u
    assert (np.isnan(expected_dZ) | (abs(dZ - expected_dZ) <= bound)).all()
