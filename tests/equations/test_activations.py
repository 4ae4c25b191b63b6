"""The activations, N6 to N9 and variants, checked against their formulas evaluated with at least 50 digits.

Every error bound counts roundings, in units in the last place (ulp). The library functions are assumed to be accurate
to 4 ulp (exp) and 3 ulp (tanh); sigmoid is then accurate to 5 ulp, silu to 6 and softplus to 5.
"""

from decimal import MAX_EMAX, Decimal, localcontext

import numpy as np
import pytest

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.nn.activations import LIBRARY

ACTIVATIONS = sorted(LIBRARY)
COUPLED = ["softmax", "log_softmax"]
ELEMENTWISE = [name for name in ACTIVATIONS if name not in COUPLED]
DTYPES = ["float32", "float64"]
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@pytest.fixture(autouse=True)
def _silent():
    """Silence NumPy's warnings: an exponential may overflow within a correct computation."""
    with np.errstate(all="ignore"):
        yield


def forward(name, Z, **options):
    return eq.EQUATIONS[name](np, Z, **options)


def backward(name, dA, Z, **options):
    return eq.EQUATIONS[name + "_backward"](np, dA, Z, forward(name, Z, **options), **options)


# The reference: the formulas as in the notes and papers, in decimal numbers.


def normal_cdf(z):
    """Return Φ from Φ = 1/2 + φ(z) (z + z³/3 + z⁵/(3·5) + ...); in tails 1 - Φ = φ(z) / (z + 1/(z + 2/(z + ...)))."""
    density = (-z * z / 2).exp() / (2 * PI).sqrt()
    if abs(z) < 3:
        term = total = z
        for k in range(3, 201, 2):
            term *= z * z / k
            total += term
        return Decimal("0.5") + density * total
    fraction = abs(z)
    for k in range(500, 0, -1):
        fraction = abs(z) + k / fraction
    return density / fraction if z < 0 else 1 - density / fraction


REFERENCE = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "tanh": lambda z: (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()),
    "relu": lambda z: z if z >= 0 else Decimal(0),
    "leaky_relu": lambda z: z if z >= 0 else Decimal("0.001") * z,
    "elu": lambda z: z if z > 0 else z.exp() - 1,
    "normal_cdf": normal_cdf,
    "gelu": lambda z: z * normal_cdf(z),
    "gelu_tanh": lambda z: z / (1 + (-2 * gelu_tanh_argument(z)).exp()),  # 1 + tanh u = 2 σ(2u)
    "silu": lambda z: z / (1 + (-z).exp()),
    "softplus": lambda z: (1 + z.exp()).ln(),
    "exp": lambda z: z.exp(),
    "mish": lambda z: z * (1 - 2 / ((1 + z.exp()) ** 2 + 1)),  # tanh(log u) = (u² - 1) / (u² + 1)
    "selu": lambda z: SCALE * (z if z > 0 else ALPHA * (z.exp() - 1)),
    "celu": lambda z: z if z > 0 else z.exp() - 1,
    "relu6": lambda z: min(max(z, Decimal(0)), Decimal(6)),
    "hardswish": lambda z: z * min(max(z + 3, Decimal(0)), Decimal(6)) / 6,
    "softsign": lambda z: z / (1 + abs(z)),
}
ALPHA: Decimal = Decimal(eq.activations.SELU[0])
SCALE: Decimal = Decimal(eq.activations.SELU[1])


def gelu_tanh_argument(z):
    return (2 / PI).sqrt() * (z + Decimal("0.044715") * z**3)


def reference(name, z):
    with localcontext(prec=50 + int(abs(z)), Emax=MAX_EMAX):
        return REFERENCE[name](z)


def slope(name, z):
    """Return g'(z) as a central difference of width 2e-15; with 50 digits, it is accurate to 1e-25."""
    h = Decimal("1e-15")
    with localcontext(prec=50 + int(abs(z)), Emax=MAX_EMAX):
        return (REFERENCE[name](z + h) - REFERENCE[name](z - h)) / (2 * h)


ULP = {
    "identity": 0,
    "relu": 0,
    "leaky_relu": 2,  # the slope is rounded, then the product
    "elu": 4,
    "sigmoid": 5,
    "tanh": 3,
    "silu": 6,
    "softplus": 5,
    "exp": 4,
    "mish": 16,  # the exponential in a numerator and a denominator, 4 ulp with the same sign; five operations each
    "selu": 8,  # elu, and two constants and two products
    "celu": 4,
    "relu6": 0,
    "hardswish": 3,
    "softsign": 2,
    "normal_cdf": 32,
    "gelu": 32,
    "gelu_tanh": 12,
}


def ulps(name, z):
    """Return the bound on the error of the activation `name` at `z`, in ulp.

    An exponential multiplies the relative error of its argument by the argument. With u = half an ulp of 1, the
    relative errors are:

    - normal_cdf and gelu compute ``e^(-z²/2)``: the product causes an error of z²/2 u in the exponential. To this add
      8 u for the exponential itself, 5 u for the series (Horner: Σ (2 k + 1) |c_k| divided by the sum), 12 u for its
      argument t (9 u times the logarithmic derivative 1.31), 3 u for 1 + 2 x, and 4 u for the products and the
      quotient: 32 u in total. For z > 0 the tail is subtracted from 1, which reduces the relative error by more than
      half.
    - gelu_tanh computes σ of v = 2 sqrt(2/π) (z + 0.044715 z³). An error of at most 7 u in v causes an error of
      7 |v| u in σ for v < 0; sigmoid and the product add 12 u.

    A relative error of k u is at most k ulp.
    """
    below = min(z, Decimal(0))
    if name in {"normal_cdf", "gelu"}:
        return ULP[name] + Decimal("0.5") * below**2
    if name == "gelu_tanh":
        return ULP[name] + 7 * abs(2 * gelu_tanh_argument(below))
    return Decimal(ULP[name])


def grid(dtype):
    """Return logits of all magnitudes, shape (1, m)."""
    near = np.arange(-12 * 16, 12 * 16 + 1) / 16
    small = 10.0 ** -np.arange(1, 12)
    far = np.array([13, 16, 20, 30, 37, 50, 80, 86, 88, 89, 95, 104, 200, 700, 708, 710, 745, 750])
    random = np.random.default_rng(0).normal(0, 4, 200)
    return np.sort(np.concatenate([near, small, -small, far, -far, random])).astype(dtype)[None]


def finite(name, Z):
    """Return the logits for which twice the activation is finite in their dtype."""
    return Z[:, Z[0] < np.log(np.finfo(Z.dtype).max) - 1] if name == "exp" else Z


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*ELEMENTWISE, "normal_cdf"])
def test_accuracy(name, dtype):
    """N6, N7, N8, N9 and variants: the error is at most ``ulps(name, z)``.

    An additional error of max(1, |z|) times the smallest normal number is allowed, since the reciprocal of an
    exponential near overflow is subnormal or 0.
    """
    Z = finite(name, grid(dtype))
    A = forward(name, Z)
    assert A.dtype == dtype
    tiny = Decimal(float(np.finfo(dtype).smallest_normal))
    for z, a in zip(map(Decimal, Z[0].tolist()), map(Decimal, A[0].tolist()), strict=True):
        exact = reference(name, z)
        ulp = Decimal(float(np.spacing(abs(np.dtype(dtype).type(exact)))))
        assert abs(a - exact) <= ulps(name, z) * ulp + max(Decimal(1), abs(z)) * tiny * (ULP[name] > 0), z


KINKS = {"relu6": [6.0], "hardswish": [3.0]}
"""The sizes of the logits, other than 0, at which an activation is not differentiable."""


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_backward_multiplies_by_the_slope(name, dtype):
    """N12 with N6, N7, N8, N9 and variants: dZ = dA * g'(Z), where g' is a difference quotient of the formula.

    No term of g' is larger than 2 (1 + |z|); for the activation exp, the limit is 2 (1 + |z|) max(1, e^z). Each term
    has at most 16 roundings, 8 of them in an exponential.
    """
    Z = finite(name, grid(dtype))
    Z = Z[abs(Z) > 1e-12][None]  # the derivative of relu and leaky_relu at 0 is a convention, tested below
    Z = Z[:, ~np.isin(abs(Z[0]), KINKS.get(name, []))]
    dZ = backward(name, np.full_like(Z, 2), Z)
    assert dZ.dtype == dtype
    u = Decimal(float(np.finfo(dtype).eps)) / 2
    for z, d in zip(map(Decimal, Z[0].tolist()), map(Decimal, dZ[0].tolist()), strict=True):
        exact = slope(name, z)
        assert abs(d - 2 * exact) <= 2 * 32 * (1 + abs(z)) * max(1, exact if name == "exp" else 1) * u, z


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_backward_is_elementwise_and_linear_in_da(name):
    """N12: dZ = dA * g'(Z); multiplying by the powers of 2 in dA is exact."""
    Z = grid("float64")
    dA = 2.0 ** np.random.default_rng(1).integers(-3, 4, Z.shape) * np.random.default_rng(2).choice([-1, 1], Z.shape)
    assert backward(name, dA, Z).tolist() == (dA * backward(name, np.ones_like(Z), Z)).tolist()


def test_sigmoid():
    """N6: σ(0) = 1/2, σ' = a (1 - a)."""
    assert forward("sigmoid", np.array([[0.0, np.log(3)]])).tolist() == [[0.5, 0.75]]
    A = np.array([[0.0, 0.25, 0.5, 1.0]])
    assert eq.sigmoid_backward(np, np.full_like(A, 16), np.zeros_like(A), A).tolist() == [[0.0, 3.0, 4.0, 0.0]]


def test_tanh():
    """N7: (e^z - e^-z) / (e^z + e^-z), g' = 1 - tanh² z.

    The bound is 3 ulp for tanh, 4 ulp for each of the four exponentials in the quotient, and 2 ulp for rounding the
    numerator and the denominator. For |z| >= 1, the difference of the exponentials loses less than one bit.
    """
    Z = np.concatenate([np.linspace(-9, -1, 50), np.linspace(1, 9, 50)])[None]
    quotient = (np.exp(Z) - np.exp(-Z)) / (np.exp(Z) + np.exp(-Z))
    assert (abs(forward("tanh", Z) - quotient) <= (3 + 2 * 2 * 4 + 2) * np.spacing(abs(quotient))).all()
    A = np.array([[-1.0, -0.5, 0.0, 0.75]])
    assert eq.tanh_backward(np, np.full_like(A, 16), np.zeros_like(A), A).tolist() == [[0.0, 12.0, 16.0, 7.0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu(dtype):
    """N8: z where z >= 0, else 0; g' = 1 where z > 0, else 0, and 0 at exactly 0."""
    Z = np.array([[-2, -0.0, 0.0, 3]], dtype)
    assert forward("relu", Z).tolist() == [[0.0, 0.0, 0.0, 3.0]]
    assert backward("relu", np.full_like(Z, 5), Z).tolist() == [[0.0, 0.0, 0.0, 5.0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaky_relu(dtype):
    """N9: z where z >= 0, else 0.001 z; the option `slope` replaces 0.001."""
    Z = np.array([[-2, -0.0, 0.0, 3]], dtype)
    default = float(np.dtype(dtype).type(0.001))
    for slope_, options in ((default, {}), (0.25, {"slope": 0.25})):
        assert forward("leaky_relu", Z, **options).tolist() == [[-2 * slope_, 0.0, 0.0, 3.0]]
        assert backward("leaky_relu", np.full_like(Z, 4), Z, **options).tolist() == [[4 * slope_] * 3 + [4.0]]
    assert dict(dn.Activation("leaky_relu").options) == {"slope": 0.001}


def test_elu_scales_its_lower_branch_by_alpha():
    Z = np.array([[-800.0, -1.0, 0.0, 2.0]])
    assert forward("elu", Z, alpha=2.0).tolist() == [[-2.0, 2 * np.expm1(-1.0), 0.0, 2.0]]
    assert backward("elu", np.ones_like(Z), Z, alpha=2.0).tolist() == [[0.0, 2 * np.exp(-1.0), 2.0, 1.0]]


def test_celu_scales_its_argument_and_its_lower_branch_by_alpha():
    Z = np.array([[-800.0, -1.0, 0.0, 2.0]])
    assert forward("celu", Z, alpha=2.0).tolist() == [[-2.0, 2 * np.expm1(-0.5), 0.0, 2.0]]
    assert backward("celu", np.ones_like(Z), Z, alpha=2.0).tolist() == [[np.exp(-400.0), np.exp(-0.5), 1.0, 1.0]]
    for alpha in (0.0, -1.0):
        with pytest.raises(dn.ArgumentError, match="celu: alpha"):
            dn.Activation("celu", alpha=alpha)


def test_slopes_of_relu6_and_hardswish_at_their_kinks():
    Z = np.array([[-3.0, 0.0, 3.0, 6.0]])
    assert backward("relu6", np.ones_like(Z), Z).tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert backward("hardswish", np.ones_like(Z), Z).tolist() == [[0.0, 0.5, 1.0, 1.0]]


@pytest.mark.parametrize(("name", "option"), [("leaky_relu", "slope"), ("elu", "alpha"), ("celu", "alpha")])
def test_options_reach_the_equation_forward_and_backward(name, option):
    Z, ops = grid("float64"), dn.get_backend("numpy").ops
    g = dn.Activation(name, **{option: 0.3})
    A, ones = g.forward(ops, Z), np.ones_like(Z)
    assert A.tolist() == forward(name, Z, **{option: 0.3}).tolist()
    assert g.backward(ops, ones, Z, A).tolist() == backward(name, ones, Z, **{option: 0.3}).tolist()
    assert A.tolist() != dn.Activation(name).forward(ops, Z).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_divides_each_exponential_by_their_sum(dtype):
    """The bound counts two exponentials, a sum and a quotient; the logits are integers, so subtracting is exact."""
    n = 5
    Z = np.random.default_rng(0).integers(-9, 10, (n, 40)).astype(dtype)
    A = forward("softmax", Z)
    for logits, outputs in zip(Z.T.tolist(), A.T.tolist(), strict=True):
        E = [Decimal(z).exp() for z in logits]
        for e, a in zip(E, outputs, strict=True):
            exact = float(e / sum(E))
            assert abs(a - exact) <= (2 * 4 + n) * np.spacing(np.dtype(dtype).type(exact))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_softmax_columns_sum_to_1(n, dtype):
    """The bound is n - 1 roundings for the sum of n terms, and one for each quotient."""
    A = forward("softmax", np.random.default_rng(n).normal(0, 5, (n, 30)).astype(dtype))
    assert (A >= 0).all()
    assert (abs(A.astype("float64").sum(axis=0) - 1) <= n * np.finfo(dtype).eps / 2 + n * 2.0**-53).all()


def test_softmax_is_invariant_under_a_shift_of_the_logits():
    """Logits and shift are integers, so the differences are exact and the results have the same bits."""
    Z = np.random.default_rng(0).integers(-9, 10, (4, 6)).astype("float64")
    for shift in (-1000.0, 1.0, 1000.0):
        assert forward("softmax", Z + shift).tolist() == forward("softmax", Z).tolist()


def test_softmax_backward_is_the_jacobian_of_each_column():
    """N12 with the Jacobian: dZ_j = Σ_i dA_i ∂a_i/∂z_j, with ∂a_i/∂z_j from a difference quotient with 50 digits.

    Here |dA| <= 3. The outputs have 16 + n roundings (two exponentials of 8 each, a sum, a quotient), and Σ dA a has n
    more. The absolute value of the difference dA - Σ dA a is at most 6; the difference is multiplied by a.
    """
    n, h = 4, Decimal("1e-15")
    Z, dA = (np.random.default_rng(seed).integers(-3, 4, (n, 20)).astype("float64") for seed in (0, 1))

    def loss(z, d):
        E = [x.exp() for x in z]
        return sum(a * b for a, b in zip(d, E, strict=True)) / sum(E)

    dZ = backward("softmax", dA, Z)
    for z, d, gradient in zip(Z.T.tolist(), dA.T.tolist(), dZ.T.tolist(), strict=True):
        z, d = [Decimal(x) for x in z], [Decimal(x) for x in d]
        for j in range(n):
            with localcontext(prec=50):
                up, down = ([x + s * (i == j) for i, x in enumerate(z)] for s in (h, -h))
                exact = float((loss(up, d) - loss(down, d)) / (2 * h))
            assert abs(gradient[j] - exact) <= (6 * (16 + n + 2) + 3 * (16 + 2 * n)) * 2.0**-53


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_softmax_is_accurate_where_a_probability_is_close_to_1(dtype):
    """The error of each difference d is one rounding of it; the logarithm of the sum has at most 24 more."""
    columns = [[0, 0, 0], [50, 0, 0], [12, 12, -30], [-7, 3, 3], [100, 99, -100], [0, -1, -80]]
    Z = np.array(columns, dtype).T
    u = Decimal(float(np.finfo(dtype).eps)) / 2
    for logits, outputs in zip(Z.T.tolist(), forward("log_softmax", Z).T.tolist(), strict=True):
        z = [Decimal(x) for x in logits]
        with localcontext(prec=80):
            log_sum = sum(((x - max(z)).exp() for x in z), Decimal(0)).ln()
            for x, a in zip(z, outputs, strict=True):
                exact = x - max(z) - log_sum
                assert abs(Decimal(a) - exact) <= 32 * u * max(abs(exact), log_sum)


def test_log_softmax_backward_subtracts_the_probabilities():
    """N12: dZ_j = dA_j - a_j Σ dA, within the roundings of log_softmax, an exponential and four operations."""
    rng = np.random.default_rng(0)
    Z, dA = rng.normal(0, 2, (4, 20)), rng.normal(size=(4, 20))
    expected = dA - eq.softmax(np, Z) * dA.sum(axis=0)
    assert (abs(backward("log_softmax", dA, Z) - expected) <= 64 * 2.0**-53 * abs(dA).sum(axis=0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_inputs_give_nan_outputs(name, dtype):
    Z = np.array([[-1, np.nan, 1], [2, 0, np.nan]], dtype)
    expected = np.isnan(Z)
    if name in COUPLED:  # each output depends on the whole column
        expected = np.broadcast_to(expected.any(axis=0), Z.shape)
    assert np.isnan(forward(name, Z)).tolist() == expected.tolist()
    ones = np.ones_like(Z)
    dZ = backward(name, np.where(np.isnan(Z), Z, ones), np.where(np.isnan(Z), ones, Z))
    assert np.isnan(dZ).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [
        ("identity", -np.inf, np.inf),
        ("sigmoid", 0, 1),
        ("tanh", -1, 1),
        ("relu", 0, np.inf),
        ("leaky_relu", -np.inf, np.inf),
        ("elu", -1, np.inf),
        ("softplus", 0, np.inf),
        ("exp", 0, np.inf),
        ("celu", -1, np.inf),
        ("relu6", 0, 6),
        ("normal_cdf", 0, 1),
    ],
)
def test_the_limits_at_infinity(name, lower, upper, dtype):
    assert forward(name, np.array([[-np.inf, np.inf]], dtype)).tolist() == [[lower, upper]]


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_gelu_and_silu_are_infinite_at_infinity(name):
    assert forward(name, np.array([[np.inf]])).tolist() == [[np.inf]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "exp"])  # e^1e4 is infinite
def test_finite_inputs_give_finite_outputs(name, dtype):
    """The logits include ±1e4, where exponentials overflow, and the largest finite numbers."""
    largest = float(np.finfo(dtype).max)
    Z = np.array([[-largest, -1e30, -1e4, 0, 1e4, 1e30, largest], [1e4, 1, -1e4, 0, 1e4, 2e30, -largest]], dtype)
    if name in {"selu", "log_softmax"}:  # at most twice the largest logit
        Z /= 2
    assert np.isfinite(forward(name, Z)).all()
    assert np.isfinite(backward(name, np.ones_like(Z), Z)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_empty_batch_gives_empty_results(name, dtype):
    Z = np.zeros((3, 0), dtype)
    for result in (forward(name, Z), backward(name, Z, Z)):
        assert result.shape == (3, 0)
        assert result.dtype == dtype


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_do_not_change_their_inputs(name):
    Z, dA = grid("float64"), np.ones_like(grid("float64"))
    Z.flags.writeable = dA.flags.writeable = False
    A = forward(name, Z)
    A.flags.writeable = False
    assert eq.EQUATIONS[name + "_backward"](np, dA, Z, A).shape == Z.shape
