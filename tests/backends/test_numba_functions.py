"""The Numba backend's elementary functions and activations, held to their true values in units of the last place (ulp).

With u half an ulp of 1, an error of k u of a value is at most k ulp of it. The bounds of exp, tanh, sigmoid and
softplus are those of section 4 of the design; the others, and what those of activations are made of, stand below and in
tests/equations/test_activations.py.
"""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from test_activations import reference, ulps

from deepnotes.equations import EQUATIONS

pytest.importorskip("numba")
from deepnotes_numba.activations import NEEDS_Z, activate, backward, softmax, softmax_backward, softmax_of
from deepnotes_numba.codes import ACTIVATIONS
from deepnotes_numba.compiling import standalone
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
    # 2^n p + (2^n - 1) with p = e^r - 1. Of p: one u |r| each for r and for the sum; r * r, the series and their
    # product together one more, since r² / 2 weighs a fifth of r: below 4 u |r|. 2^n |r| is at most 1.68 |e^x - 1|, for
    # x = ln(2) / 2 and n = 1: that is 6.7, and the last sum makes 8.
    "expm1": 8,
    # log m = 2 s + terms below 1/100 of it, s = f / (2 + f) with an exact f: 2 u for s, 1 u for the sum. n ln 2 (and
    # n LN2_HIGH is exact) joins with 1 u; it is at least twice log m, so what is left of both is no less. The rest: 1.
    "log": 5,
    # log w of w = 1 + x, rounded, which is up to twice the result (for x = u): 2 * 5. The correction's quotient and the
    # last sum make 2.
    "log1p": 12,
}


@standalone
def run(which, x, out):
    """Write the function number `which` of each element of x to out: one thing to compile for all of them."""
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


@standalone
def activity(code, option, Z, A, D, shared):
    """Write A = g(Z), and turn D from dA into dZ."""
    activate(code, option, Z, A, shared)
    backward(code, option, D, Z, A)


@standalone
def softmaxes(work, n, vectors):
    """Of the blocks Z, A and D in `work`, write A and turn D from dA into dZ; and take the softmax of each vector."""
    step = n * block(work)
    softmax(work, 0, step, n, 3 * step, 3 * step + block(work))
    softmax_backward(work, 2 * step, step, n, 3 * step + block(work))
    for i in range(vectors.shape[0]):
        softmax_of(vectors[i])


def computed(name: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    run(FUNCTIONS.index(name), x, out)
    return out


def true(name: str, x: np.ndarray) -> np.ndarray:
    """Return the values of float32 in float64, those of float64 in long double."""
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            return 1 / (1 + np.exp(np.negative(wide)))
        if name == "softplus":
            return np.logaddexp(0, wide)
        if name == "normal_cdf":
            return EQUATIONS["normal_cdf"](np, wide)  # in double precision: tests/equations/test_activations.py
        return getattr(np, name)(wide)


def grid(name: str, dtype: str) -> np.ndarray:
    """Return numbers of all exponents and signs; a line through where something happens; where reductions change."""
    kind = np.dtype(dtype)
    info, bits = np.finfo(kind), 8 * kind.itemsize
    patterns = np.arange(1 << 18, dtype=f"u{kind.itemsize}") * ((1 << (bits - 18)) + 1)
    patterns = patterns.view(kind)[~np.isnan(patterns.view(kind))]
    line = np.linspace(-1, 1, 200_001)
    lowest = float(np.log(info.smallest_subnormal))
    halves = np.arange(-2 * 1075, 2 * 1025) * np.log(2) / 2  # odd multiples are where n changes, for tanh those of half
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
    """Assert that no error is larger than `bound` ulp of the true value as `out.dtype` rounds it."""
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
def test_every_function_keeps_its_bound_wherever_it_is_called(name: str, dtype: str) -> None:
    """As 2 σ(2x) - 1, tanh would be off by 10^7 ulp near 0; and softplus as log(1 + e^x), far below 0."""
    if dtype == "float64" and np.finfo(np.longdouble).eps > np.finfo(dtype).eps / 256:
        pytest.skip("there is no wider type to compute the truth in")
    x = grid(name, dtype)
    bound = 32 + 2.5 * np.minimum(x, 0, dtype=np.float64) ** 2 if name == "normal_cdf" else BOUNDS[name]
    assert_within(name, computed(name, x), true(name, x), bound)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "softplus", "normal_cdf"])
def test_double_precision_keeps_its_bound_against_50_digits(name: str) -> None:
    """Fewer numbers, down to where results are subnormal, for all machines and for the normal distribution."""
    small = 10.0 ** -np.arange(0.0, 309, 11)
    x = np.concatenate([np.linspace(-38.5, 38.5, 155), small, -small])
    numbers = [Decimal(z) for z in x.tolist()]
    for z, out in zip(numbers, computed(name, x).tolist(), strict=True):
        y = z.exp() if name == "exp" else reference(name, z)
        if name == "tanh" and abs(z) < 1e-20:
            y = z  # but for z³ / 3, where 50 digits of both exponentials are not enough
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
def test_values_that_are_known(name: str, values: dict[float, float], dtype: str) -> None:
    """NaN in, NaN out; and what is at zero and infinity, of full vectors and of single numbers."""
    values = {np.nan: np.nan, **values}
    for times in (1, 33):
        x = np.repeat(np.array([*values], dtype), times)
        np.testing.assert_array_equal(computed(name, x), np.repeat(np.array([*values.values()], dtype), times))
        if 0.0 in values:
            np.testing.assert_array_equal(computed(name, np.zeros(times, dtype) * -1), [values[0.0]] * times)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_ends_where_the_dtype_does(dtype: str) -> None:
    """It overflows past log(max), and is subnormal, not zero, down to half the smallest number there is."""
    info = np.finfo(dtype)
    ends = [float(np.log(np.longdouble(x))) for x in (info.max, info.smallest_normal, info.smallest_subnormal)]
    x = np.array([e + step for e in ends for step in (-0.1, 0.1)] + [ends[2] - np.log(2) - 0.1], dtype)
    out = computed("exp", x)
    assert np.isfinite(out[0])
    assert out[1] == np.inf
    assert 0 < out[2] < info.smallest_normal < out[3]
    assert out[4] == info.smallest_subnormal == out[5]
    assert out[6] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd(dtype: str) -> None:
    x = grid("tanh", dtype)
    np.testing.assert_array_equal(computed("tanh", -x), -computed("tanh", x))


def own_ulps(name: str, z: Decimal) -> Decimal:
    """Return those of tests/equations/test_activations.py, but elu has our expm1, times alpha."""
    return Decimal(BOUNDS["expm1"] + 1) if name == "elu" else ulps(name, z)


def applied(name: str, Z: np.ndarray, D: np.ndarray, shared: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return A and dZ as the backend computes them; Z, where shared, is lost on the way."""
    option = Z.dtype.type(next(iter(OPTIONS.get(name, {}).values()), 0))
    Z, D = Z.copy(), D.copy()
    A = Z if shared else np.full_like(Z, np.nan)
    activity(ACTIVATIONS[name], option, Z, A, D, shared)
    return A, D


def by_equations(name: str, Z: np.ndarray, D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A and dZ by the equations, in float64, with options as the dtype of Z rounds them."""
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
def test_activations_and_their_slopes_are_those_of_the_equations(
    name: str, shared: bool, length: int, dtype: str
) -> None:
    """Bounds are those of test_activations.py, for the equations too where they are no more exact than we are.

    The reciprocal of an exponential near overflow may lose what the smallest normal number is to 1, or to z.
    """
    rng = np.random.default_rng(length)
    Z = np.concatenate([rng.normal(0, 4, 2000), rng.uniform(-120, 120, 200), [0.0, -0.0]]).astype(dtype)
    Z = np.minimum(Z, 80) if name == "exp" else Z
    Z, D = rng.permutation(Z)[:length], rng.normal(size=length).astype(dtype)
    A, dZ = applied(name, Z, D, shared)
    wanted, slopes = by_equations(name, Z, D)
    sides, info = 1 if dtype == "float32" else 2, np.finfo(dtype)
    ulp = np.spacing(abs(wanted.astype(dtype))).astype(np.float64)
    bound = np.array([float(own_ulps(name, Decimal(z))) for z in Z.tolist()])
    lost = np.maximum(1, abs(Z)) * float(info.smallest_normal) * (bound > 0)
    assert (abs(A - wanted) <= sides * bound * ulp + lost).all()
    alpha = max([1, *OPTIONS.get(name, {}).values()])
    size = np.maximum(1, wanted) if name == "exp" else 1  # of the slope, with the logits that it is made of
    bound = sides * 32 * alpha * (1 + abs(Z)) * size * float(info.eps) / 2
    assert (abs(dZ - slopes) <= abs(D) * bound + lost).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_infinity_pass_as_they_do_in_the_equations(name: str, dtype: str) -> None:
    """Each beside ordinary numbers, in each place of a vector; dZ is NaN at least where dA is."""
    for value in (np.nan, np.inf, -np.inf):
        for place in range(33):
            Z = np.linspace(-2, 2, 33).astype(dtype)
            D = np.ones(33, dtype)
            Z[place] = value
            A, dZ = applied(name, Z, D)
            wanted, slopes = by_equations(name, Z, D)
            assert A[place] == wanted[place] or np.isnan([A[place], wanted[place]]).all()
            assert not np.isnan(value) or np.isnan(A[place])
            assert np.isnan(dZ[place]) == np.isnan(slopes[place])
            assert np.isfinite(np.delete([A, dZ], place, axis=1)).all()
            _, dZ = applied(name, D, Z)
            assert np.isfinite(dZ[place]) == np.isfinite(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_softmax_and_its_slope_are_those_of_the_equations(n: int, dtype: str) -> None:
    """Of blocks, and of one vector. Bounds as in tests/equations/test_activations.py: small integers, |dA| <= 3.

    A column with a NaN or an infinity is what the equations make of it, and the others do not see it.
    """
    S = block_of(np.dtype(dtype))
    Z, D = (np.random.default_rng(seed).integers(-3, 4, (n, S)).astype(dtype) for seed in (n, n + 1))
    Z[-1, :3] = np.nan, np.inf, -np.inf
    work = np.concatenate([Z, np.zeros_like(Z), D, np.zeros((2, S), dtype)])
    vectors = np.ascontiguousarray(Z.T)
    softmaxes(work.reshape(-1), n, vectors)
    with np.errstate(all="ignore"):
        wanted = EQUATIONS["softmax"](np, Z.astype(np.float64))
        slopes = EQUATIONS["softmax_backward"](np, D.astype(np.float64), Z.astype(np.float64), wanted)
    u, sides = float(np.finfo(dtype).eps) / 2, 1 if dtype == "float32" else 2
    for A in (work[n : 2 * n], vectors.T):
        np.testing.assert_array_equal(np.isnan(A), np.isnan(wanted))
        ulp = np.spacing(wanted.astype(dtype)).astype(np.float64)
        assert (np.isnan(wanted) | (abs(A - wanted) <= sides * (2 * 4 + n) * ulp)).all()
    dZ = work[2 * n : 3 * n]
    np.testing.assert_array_equal(np.isnan(dZ), np.isnan(slopes))
    bound = sides * (6 * (16 + n + 2) + 3 * (16 + 2 * n)) * u
    assert (np.isnan(slopes) | (abs(dZ - slopes) <= bound)).all()
