"""The errors of the Numba backend's elementary functions and activations, in units of the last place (ulp).

Let u be half an ulp of 1; then a relative error of k u is at most k ulp. The bounds of exp, tanh, sigmoid and softplus
are from section 4 of the design. The other bounds are derived below, and those of the activations in
tests/equations/test_activations.py.
"""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from test_activations import reference, ulps

from deepnotes.equations import EQUATIONS

pytest.importorskip("numba")
from deepnotes_numba.activations import (
    NEEDS_Z,
    activate,
    activate_in_place,
    backward,
    softmax,
    softmax_backward,
    softmax_of,
)
from deepnotes_numba.codes import ACTIVATIONS
from deepnotes_numba.compiling import jit_standalone
from deepnotes_numba.elementary import exp, expm1, log, log1p, normal_cdf, sigmoid, softplus, tanh
from deepnotes_numba.lowering import block_of
from deepnotes_numba.vectors import block

pytestmark = pytest.mark.slow

DTYPES = ["float32", "float64"]
FUNCTIONS = ["exp", "expm1", "tanh", "sigmoid", "log", "log1p", "softplus", "normal_cdf"]
ELEMENTWISE = [name for name in ACTIVATIONS if name != "softmax"]
OPTIONS = {"leaky_relu": {"slope": 0.3}, "elu": {"alpha": 1.7}}
BOUNDS = {
    "exp": 4,
    "tanh": 3,
    "sigmoid": 5,
    "softplus": 5,
    # The result is 2^n p + (2^n - 1) with p = e^r - 1. The error of p is below 4 u |r|: u |r| each for r and for the
    # sum, and together u |r| for r * r, the series and their product, since r² / 2 is at most a fifth of r. 2^n |r| is
    # at most 1.68 |e^x - 1|, for x = ln(2) / 2 and n = 1, which gives 6.7; with the last sum it is below 8.
    "expm1": 8,
    # log m is 2 s plus terms below 1/100 of it, with s = f / (2 + f) and an exact f: 2 u for s, and u for the sum.
    # Adding n ln 2 (n LN2_HIGH is exact) costs u; it is at least twice log m, so their sum is at least log m. All other
    # roundings: u.
    "log": 5,
    # log w, for w = 1 + x rounded, is up to twice the result (for x = u): 2 * 5. The quotient of the correction and the
    # last sum: 2.
    "log1p": 12,
}


@jit_standalone
def run(which, x, out):  # noqa: C901, PLR0912 - one branch and one loop per function
    """Apply function number `which` to each element of x: one compiled function instead of eight."""
    if which == 0:
        for i in range(x.shape[0]):
            out[i] = exp(x[i])
    elif which == 1:
        for i in range(x.shape[0]):
            out[i] = expm1(x[i])
    elif which == 2:
        for i in range(x.shape[0]):
            out[i] = tanh(x[i])
    elif which == 3:
        for i in range(x.shape[0]):
            out[i] = sigmoid(x[i])
    elif which == 4:
        for i in range(x.shape[0]):
            out[i] = log(x[i])
    elif which == 5:
        for i in range(x.shape[0]):
            out[i] = log1p(x[i])
    elif which == 6:
        for i in range(x.shape[0]):
            out[i] = softplus(x[i])
    else:
        for i in range(x.shape[0]):
            out[i] = normal_cdf(x[i])


@jit_standalone
def apply_activation(code, option, Z, A, D, shared):
    """Write A = g(Z), and replace dA, in D, by dZ; if `shared`, A is Z."""
    if shared:
        activate_in_place(code, option, A)
    else:
        activate(code, option, Z, A)
    backward(code, option, D, Z, A)


@jit_standalone
def apply_softmax(work, n, vectors):
    """Compute A and dZ from the blocks Z, A and dA in `work`, and replace each vector by its softmax."""
    step = n * block(work)
    softmax(work, 0, step, n, 3 * step, 3 * step + block(work))
    softmax_backward(work, 2 * step, step, n, 3 * step + block(work))
    for i in range(vectors.shape[0]):
        softmax_of(vectors[i])


def compute(name: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    run(FUNCTIONS.index(name), x, out)
    return out


def reference_values(name: str, x: np.ndarray) -> np.ndarray:
    """Return the values for float32 in float64, and the values for float64 in long double."""
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            return 1 / (1 + np.exp(np.negative(wide)))
        if name == "softplus":
            return np.logaddexp(0, wide)
        if name == "normal_cdf":
            return EQUATIONS["normal_cdf"](np, wide)  # as accurate as tests/equations/test_activations.py says
        return getattr(np, name)(wide)


def grid(name: str, dtype: str) -> np.ndarray:
    """Return numbers of all exponents and signs, equidistant ones near 0, and those where a reduction changes."""
    kind = np.dtype(dtype)
    info, bits = np.finfo(kind), 8 * kind.itemsize
    patterns = np.arange(1 << 18, dtype=f"u{kind.itemsize}") * ((1 << (bits - 18)) + 1)
    patterns = patterns.view(kind)[~np.isnan(patterns.view(kind))]
    line = np.linspace(-1, 1, 200_001)
    lowest = float(np.log(info.smallest_subnormal))
    halves = np.arange(-2 * 1075, 2 * 1025) * np.log(2) / 2  # n changes at odd multiples, for tanh at their halves
    edges = [*halves, *halves / 2, lowest, lowest - np.log(2), float(np.log(info.max)), -1, 1, 1 / 2, 2, 4 / 3]
    edges += [a * b for a in (np.sqrt(0.5), np.sqrt(2)) for b in 2.0 ** np.arange(-20, 21)]
    x = np.concatenate([line, 1.1 * lowest * line, edges]).astype(kind)
    with np.errstate(all="ignore"):
        neighbours = [np.nextafter(x, kind.type(end)) for end in (-np.inf, np.inf)]
        x = np.concatenate([patterns, x, *neighbours])
        if name == "expm1":
            return x[~(x > 80)]
        if name == "log":
            return x[~(abs(x) < info.smallest_normal)]
        return x[(x > -1) & (x <= 1)] if name == "log1p" else x


def assert_within(name: str, out: np.ndarray, true: np.ndarray, bound: Any) -> None:
    """Assert that no error is larger than `bound` ulp of the true value, rounded to `out.dtype`."""
    with np.errstate(all="ignore"):
        rounded = true.astype(out.dtype)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(out[~finite], rounded[~finite])
        errors = abs(out - true) / np.spacing(abs(rounded))
        over = np.flatnonzero(finite & ~(errors <= bound))
    assert not len(over), (name, errors[over].max(), true[over[:5]], out[over[:5]])


@pytest.mark.parametrize(
    ("name", "dtype"), [(f, d) for f in FUNCTIONS for d in DTYPES if (f, d) != ("normal_cdf", "float64")]
)
def test_every_function_is_within_its_bound(name: str, dtype: str) -> None:
    """Near 0, tanh as 2 σ(2x) - 1 would be off by 10^7 ulp; so would softplus as log(1 + e^x) for very negative x."""
    if dtype == "float64" and np.finfo(np.longdouble).eps > np.finfo(dtype).eps / 256:
        pytest.skip("there is no wider type for the reference")
    x = grid(name, dtype)
    bound = 32 + 2.5 * np.minimum(x, 0, dtype=np.float64) ** 2 if name == "normal_cdf" else BOUNDS[name]
    assert_within(name, compute(name, x), reference_values(name, x), bound)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "softplus", "normal_cdf"])
def test_double_precision_is_within_its_bound_of_50_digits(name: str) -> None:
    """Fewer numbers, including subnormal results, but for all machines and for the normal distribution too."""
    small = 10.0 ** -np.arange(0.0, 309, 11)
    x = np.concatenate([np.linspace(-38.5, 38.5, 155), small, -small])
    numbers = [Decimal(z) for z in x.tolist()]
    for z, out in zip(numbers, compute(name, x).tolist(), strict=True):
        y = z.exp() if name == "exp" else reference(name, z)
        if name == "tanh" and abs(z) < 1e-20:
            y = z  # up to z³ / 3; 50 digits of the two exponentials are not enough here
        bound = ulps(name, z) if name == "normal_cdf" else BOUNDS[name]
        assert abs(Decimal(out) - y) <= bound * Decimal(float(np.spacing(abs(float(y))))), z


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("exp", {-np.inf: 0, 0.0: 1, np.inf: np.inf}),
        ("expm1", {-np.inf: -1, 0.0: 0}),
        ("tanh", {-np.inf: -1, 0.0: 0, np.inf: 1}),
        ("sigmoid", {-np.inf: 0, 0.0: 0.5, np.inf: 1}),
        ("log", {-np.inf: np.nan, -1.0: np.nan, -0.0: -np.inf, 1.0: 0, np.inf: np.inf}),
        ("log1p", {0.0: 0}),
        ("softplus", {-np.inf: 0, np.inf: np.inf}),
        ("normal_cdf", {-np.inf: 0, np.inf: 1}),
    ],
)
def test_special_values(name: str, values: dict[float, float], dtype: str) -> None:
    """NaN gives NaN, and values at zero and infinity are exact, in full vectors and for single numbers."""
    values = {np.nan: np.nan, **values}
    for times in (1, 33):
        x = np.repeat(np.array([*values], dtype), times)
        np.testing.assert_array_equal(compute(name, x), np.repeat(np.array([*values.values()], dtype), times))
        if 0.0 in values:
            np.testing.assert_array_equal(compute(name, np.zeros(times, dtype) * -1), [values[0.0]] * times)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_covers_the_whole_range_of_the_dtype(dtype: str) -> None:
    """It overflows above log(max), and is subnormal, not zero, down to half the smallest subnormal number."""
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


def own_ulps(name: str, z: Decimal) -> Decimal:
    """Return the bounds of tests/equations/test_activations.py, except for elu, which uses our expm1."""
    return Decimal(BOUNDS["expm1"] + 1) if name == "elu" else ulps(name, z)


def apply(name: str, Z: np.ndarray, D: np.ndarray, shared: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return A and dZ as the backend computes them; if `shared`, A overwrites Z."""
    option = Z.dtype.type(next(iter(OPTIONS.get(name, {}).values()), 0))
    Z, D = Z.copy(), D.copy()
    A = Z if shared else np.full_like(Z, np.nan)
    apply_activation(ACTIVATIONS[name], option, Z, A, D, shared)
    return A, D


def by_equations(name: str, Z: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A and dZ by the equations, in float64, with options rounded to the dtype of Z."""
    options = {key: float(Z.dtype.type(value)) for key, value in OPTIONS.get(name, {}).items()}
    Z, D = Z[None].astype(np.float64), D[None].astype(np.float64)
    with np.errstate(all="ignore"):
        A = EQUATIONS[name](np, Z, **options)
        return A[0], EQUATIONS[f"{name}_backward"](np, D, Z, A, **options)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 7, 64, 1000])
@pytest.mark.parametrize(
    ("name", "shared"), [(g, s) for g in ELEMENTWISE for s in (False, True) if not s or not NEEDS_Z[ACTIVATIONS[g]]]
)
def test_activations_and_their_slopes_agree_with_the_equations(
    name: str, shared: bool, length: int, dtype: str
) -> None:
    """The bounds are those of test_activations.py, twice for float64, where the equations are no more exact.

    The reciprocal of an exponential near overflow may be off by the smallest normal number, times z if that is larger.
    """
    rng = np.random.default_rng(length)
    Z = np.concatenate([rng.normal(0, 4, 2000), rng.uniform(-120, 120, 200), [0.0, -0.0]]).astype(dtype)
    Z = np.minimum(Z, 80) if name == "exp" else Z
    Z, D = rng.permutation(Z)[:length], rng.normal(size=length).astype(dtype)
    A, dZ = apply(name, Z, D, shared)
    expected, slopes = by_equations(name, Z, D)
    sides, info = 1 if dtype == "float32" else 2, np.finfo(dtype)
    ulp = np.spacing(abs(expected.astype(dtype))).astype(np.float64)
    bound = np.array([float(own_ulps(name, Decimal(z))) for z in Z.tolist()])
    lost = np.maximum(1, abs(Z)) * float(info.smallest_normal) * (bound > 0)
    assert (abs(A - expected) <= sides * bound * ulp + lost).all()
    alpha = max([1, *OPTIONS.get(name, {}).values()])
    size = np.maximum(1, expected) if name == "exp" else 1  # the scale of the slope's terms
    bound = sides * 32 * alpha * (1 + abs(Z)) * size * float(info.eps) / 2
    assert (abs(dZ - slopes) <= abs(D) * bound + lost).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_infinity_propagate_as_in_the_equations(name: str, dtype: str) -> None:
    """Each stands among ordinary numbers, at each index of a vector; where dA is NaN or infinite, dZ is not finite."""
    for value in (np.nan, np.inf, -np.inf):
        for index in range(33):
            Z = np.linspace(-2, 2, 33).astype(dtype)
            D = np.ones(33, dtype)
            Z[index] = value
            A, dZ = apply(name, Z, D)
            expected, slopes = by_equations(name, Z, D)
            assert A[index] == expected[index] or np.isnan([A[index], expected[index]]).all()
            assert not np.isnan(value) or np.isnan(A[index])
            assert np.isnan(dZ[index]) == np.isnan(slopes[index])
            assert np.isfinite(np.delete([A, dZ], index, axis=1)).all()
            _, dZ = apply(name, D, Z)
            assert np.isfinite(dZ[index]) == np.isfinite(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_softmax_and_its_slope_agree_with_the_equations(n: int, dtype: str) -> None:
    """Blocks and single vectors, of small integers with |dA| <= 3; bounds as in tests/equations/test_activations.py.

    Columns with a NaN or an infinity agree with the equations too, and do not affect the others.
    """
    S = block_of(np.dtype(dtype))
    Z, D = (np.random.default_rng(seed).integers(-3, 4, (n, S)).astype(dtype) for seed in (n, n + 1))
    Z[-1, :3] = np.nan, np.inf, -np.inf
    work = np.concatenate([Z, np.zeros_like(Z), D, np.zeros((2, S), dtype)])
    vectors = np.ascontiguousarray(Z.T)
    apply_softmax(work.reshape(-1), n, vectors)
    with np.errstate(all="ignore"):
        expected = EQUATIONS["softmax"](np, Z.astype(np.float64))
        slopes = EQUATIONS["softmax_backward"](np, D.astype(np.float64), Z.astype(np.float64), expected)
    u, sides = float(np.finfo(dtype).eps) / 2, 1 if dtype == "float32" else 2
    for A in (work[n : 2 * n], vectors.T):
        np.testing.assert_array_equal(np.isnan(A), np.isnan(expected))
        ulp = np.spacing(expected.astype(dtype)).astype(np.float64)
        assert (np.isnan(expected) | (abs(A - expected) <= sides * (2 * 4 + n) * ulp)).all()
    dZ = work[2 * n : 3 * n]
    np.testing.assert_array_equal(np.isnan(dZ), np.isnan(slopes))
    bound = sides * (6 * (16 + n + 2) + 3 * (16 + 2 * n)) * u
    assert (np.isnan(slopes) | (abs(dZ - slopes) <= bound)).all()
