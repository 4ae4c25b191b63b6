"""The activations ``A = g(Z)`` (N3, N6 to N9 and variants) and their backward forms ``dZ = dA * g'(Z)`` (N12).

Each activation is a pair of functions: ``name(xp, Z)``, and ``name_backward(xp, dA, Z, A)`` with ``A = name(xp, Z)``.
All arguments and results have shape (n, m) for n neurons and m samples, and the same floating-point dtype. All
functions propagate NaN. Where ``e^-z`` overflows, the infinite intermediate value gives the correct result
(``1 / (1 + inf) = 0``), but NumPy warns; a caller may suppress this warning with ``numpy.errstate``, as Programs do.
"""

from math import pi, sqrt

from deepnotes.equations.array import Array, Namespace

# erfc(x) = e^(-x²) p(t) / (1 + 2x) with t = (x - 3) / (x + 3), for x >= 0 (M. M. Shepherd and J. G. Laframboise,
# Math. Comp. 36 (1981) 249). p is a Chebyshev series of degree 24. Its coefficients were computed to 40 digits and
# converted to those of a polynomial in t, whose constant term comes first. tests/equations/test_activations.py checks
# the result against the exact erfc.
ERFC = (
    1.2530080582697296, -0.13562110612458117, -0.0475622943534492, 0.1296451587027594, -0.11927366341538638,
    0.0683080273440099, -0.02377051491717134, 0.0025293918156939696, 0.0018886903449991718, -0.0007798322696543306,
    -0.00010515971958448065, 0.0001250993424583729, 4.949196649968345e-06, -2.0100542268525612e-05,
    -7.308281468783614e-07, 3.472370944977168e-06, 3.5576086684080595e-07, -6.166011460398726e-07,
    -1.4047654315428462e-07, 1.0183620603842736e-07, 4.1064013667940355e-08, -1.3312919661038687e-08,
    -8.217595058711455e-09, 9.862533510345587e-10, 8.393734858690877e-10,
)  # fmt: skip


def identity(xp: Namespace, Z: Array) -> Array:
    """Return ``Z``, for linear output layers.

    By N4, two layers with only this activation between them are equivalent to a single layer.
    """
    return Z


def identity_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA`` (N12), since ``g' = 1``."""
    return dA


def sigmoid(xp: Namespace, Z: Array) -> Array:
    """Return ``σ(z) = 1 / (1 + e^-z)`` (N6).

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np, np.array([[0.0]]))
    array([[0.5]])
    """
    return 1 / (1 + xp.exp(-Z))


def sigmoid_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * a (1 - a)`` (N12 with the derivative of N6)."""
    return dA * (A * (1 - A))


def tanh(xp: Namespace, Z: Array) -> Array:
    """Return ``tanh z = (e^z - e^-z) / (e^z + e^-z)`` (N7)."""
    return xp.tanh(Z)


def tanh_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * (1 - a²)`` (N12 with the derivative of N7)."""
    return dA * (1 - A * A)


def relu(xp: Namespace, Z: Array) -> Array:
    """Return ``z`` where ``z >= 0``, else 0 (N8). It uses ``maximum`` because a comparison would not propagate NaN."""
    return xp.maximum(Z, _scalar(xp, 0, Z))


def relu_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = 1`` where ``a > 0``, so where ``z > 0``, else 0 (N12; derivative of N8)."""
    return dA * _step(xp, A)


def leaky_relu(xp: Namespace, Z: Array, slope: float = 0.001) -> Array:
    """Return ``z`` where ``z >= 0``, else ``slope z`` (N9, which has the slope 0.001)."""
    return xp.where(Z >= 0, Z, slope * Z)


def leaky_relu_backward(xp: Namespace, dA: Array, Z: Array, A: Array, slope: float = 0.001) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = 1`` where ``z > 0``, else `slope` (N12 with the derivative of N9)."""
    positive = _step(xp, Z)
    return dA * (positive + slope * (1 - positive))


def prelu(xp: Namespace, Z: Array, alpha: Array) -> Array:
    """Return ``z`` where ``z > 0``, else ``alpha z``; alpha has the shape (n, 1) (He et al., arXiv:1502.01852)."""
    return xp.where(Z > 0, Z, alpha * Z)


def prelu_backward(xp: Namespace, dA: Array, Z: Array, alpha: Array) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = 1`` where ``z > 0``, else `alpha`, which has the shape (n, 1) (N12)."""
    return xp.where(Z > 0, dA, alpha * dA)


def softmax(xp: Namespace, Z: Array) -> Array:
    """Return ``e^z / Σ e^z`` for each column; its maximum is subtracted from z first, which prevents overflow."""
    E = xp.exp(Z - xp.max(Z, axis=0, keepdims=True))
    return E / xp.sum(E, axis=0, keepdims=True)


def softmax_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = a * (dA - Σ dA a)`` for each column: N12 with the Jacobian ``diag(a) - a aᵀ``."""
    return A * (dA - xp.sum(dA * A, axis=0, keepdims=True))


def elu(xp: Namespace, Z: Array, alpha: float = 1.0) -> Array:
    """Return ``z`` where ``z > 0``, else ``alpha (e^z - 1)`` (Clevert et al., arXiv:1511.07289)."""
    return xp.where(Z > 0, Z, alpha * xp.expm1(xp.minimum(Z, _scalar(xp, 0, Z))))


def elu_backward(xp: Namespace, dA: Array, Z: Array, A: Array, alpha: float = 1.0) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = 1`` where ``z > 0``, else ``alpha e^z`` (N12)."""
    slope = alpha * xp.exp(xp.minimum(Z, _scalar(xp, 0, Z)))
    return dA * xp.where(Z > 0, xp.ones_like(Z), slope)


def gelu(xp: Namespace, Z: Array) -> Array:
    """Return ``z Φ(z)``; Φ is the standard normal distribution function (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return Z * normal_cdf(xp, Z)


def gelu_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * (Φ(z) + z φ(z))`` (N12); φ is the standard normal density."""
    density = xp.exp(-0.5 * Z * Z) * (1 / sqrt(2 * pi))
    return dA * (normal_cdf(xp, Z) + Z * density)


def gelu_tanh(xp: Namespace, Z: Array) -> Array:
    """Return ``z/2 (1 + tanh u)`` with ``u = sqrt(2/π) (z + 0.044715 z³)`` (arXiv:1606.08415, section 2).

    It is computed as ``z σ(2u)``, which has the same value but no cancellation where ``tanh u`` is close to -1.
    """
    return Z / (1 + xp.exp(-2 * sqrt(2 / pi) * (Z + 0.044715 * Z * Z * Z)))


def gelu_tanh_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * (s + z s (1 - s) 2u')`` (N12), with ``s = σ(2u)`` and u as in :func:`gelu_tanh`."""
    c = 2 * sqrt(2 / pi)
    S = sigmoid(xp, c * (Z + 0.044715 * Z * Z * Z))
    T = Z * (S * (1 - S))  # underflows to 0 long before Z * Z overflows
    return dA * (S + c * T + 3 * 0.044715 * c * (T * Z * Z))


def silu(xp: Namespace, Z: Array) -> Array:
    """Return ``z σ(z)``, also known as swish (arXiv:1606.08415; Ramachandran et al., arXiv:1710.05941)."""
    return Z / (1 + xp.exp(-Z))


def silu_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * σ (1 + z (1 - σ))`` (N12)."""
    S = sigmoid(xp, Z)
    return dA * (S * (1 + Z * (1 - S)))


def softplus(xp: Namespace, Z: Array) -> Array:
    """Return ``log(1 + e^z)``, computed as ``max(z, 0) + log(1 + e^-|z|)``, which cannot overflow."""
    return xp.maximum(Z, _scalar(xp, 0, Z)) + xp.log1p(xp.exp(-abs(Z)))


def softplus_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * σ(z)`` (N12)."""
    return dA * sigmoid(xp, Z)


def exp(xp: Namespace, Z: Array) -> Array:
    """Return ``e^z``, the inverse of the link function ``log a = z`` of Poisson regression."""
    return xp.exp(Z)


def exp_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * a`` (N12)."""
    return dA * A


def mish(xp: Namespace, Z: Array) -> Array:
    """Return ``z tanh(log(1 + e^z))`` (Misra, arXiv:1908.08681).

    It is computed from one exponential, ``e = e^-|z|``: with ``w = e^z``, the factor of z is
    ``(w² + 2 w) / (w² + 2 w + 2)``, and numerator and denominator are divided by w² where ``z >= 0``.
    """
    _, N, D = _mish_terms(xp, Z)
    return Z * (N / D)


def mish_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * (t + z (1 - t²) σ(z))`` with ``t = tanh(log(1 + e^z))`` (N12).

    With ``w = e^z``, ``(1 - t²) σ(z) = 4 w (1 + w) / (w² + 2 w + 2)²``.
    """
    E, N, D = _mish_terms(xp, Z)
    W = E * (1 + E) * xp.where(Z >= 0, E, xp.ones_like(E))
    return dA * (N / D + Z * (4 * W / (D * D)))


def _mish_terms(xp: Namespace, Z: Array) -> tuple[Array, Array, Array]:
    """Return ``e = e^-|z|``, and ``w² + 2 w`` and ``w² + 2 w + 2`` for ``w = e^z``, divided by w² where ``z >= 0``."""
    E = xp.exp(-abs(Z))
    N = xp.where(Z >= 0, 1 + 2 * E, E * (E + 2))
    return E, N, xp.where(Z >= 0, N + 2 * E * E, N + 2)


SELU = 1.6732632423543772, 1.0507009873554805
"""α and λ of :func:`selu`, for which a mean of 0 and a variance of 1 are a fixed point (equation 14 of the paper)."""


def selu(xp: Namespace, Z: Array) -> Array:
    """Return ``λ z`` where ``z > 0``, else ``λ α (e^z - 1)``: λ times ELU (Klambauer et al., arXiv:1706.02515)."""
    alpha, scale = SELU
    return scale * elu(xp, Z, alpha)


def selu_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = λ`` where ``z > 0``, else ``λ α e^z`` (N12)."""
    alpha, scale = SELU
    return elu_backward(xp, scale * dA, Z, A, alpha)


def celu(xp: Namespace, Z: Array, alpha: float = 1.0) -> Array:
    """Return ``z`` where ``z > 0``, else ``alpha (e^(z / alpha) - 1)`` (Barron, arXiv:1704.07483).

    Unlike :func:`elu`, it is continuously differentiable for every `alpha`, which must be above 0.
    """
    return xp.where(Z > 0, Z, alpha * xp.expm1(xp.minimum(Z, _scalar(xp, 0, Z)) / alpha))


def celu_backward(xp: Namespace, dA: Array, Z: Array, A: Array, alpha: float = 1.0) -> Array:
    """Return ``dZ = dA * e^(min(z, 0) / alpha)`` (N12)."""
    return dA * xp.exp(xp.minimum(Z, _scalar(xp, 0, Z)) / alpha)


def relu6(xp: Namespace, Z: Array) -> Array:
    """Return ``min(max(z, 0), 6)`` (Howard et al., arXiv:1704.04861)."""
    return xp.minimum(xp.maximum(Z, _scalar(xp, 0, Z)), _scalar(xp, 6, Z))


def relu6_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = 1`` where ``0 < a < 6``, else 0 (N12)."""
    return dA * (_step(xp, A) * _step(xp, 6 - A))


def hardswish(xp: Namespace, Z: Array) -> Array:
    """Return ``z min(max(z + 3, 0), 6) / 6``, silu with straight lines for σ (Howard et al., arXiv:1905.02244)."""
    return Z * (relu6(xp, Z + 3) / 6)


def hardswish_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA * g'`` with ``g' = (2 z + 3) / 6`` where ``|z| < 3``, else 0 or 1 (N12)."""
    inner = xp.where(abs(Z) < 3, Z, xp.zeros_like(Z))
    return dA * ((relu6(xp, Z + 3) + inner) / 6)


def softsign(xp: Namespace, Z: Array) -> Array:
    """Return ``z / (1 + |z|)`` (Bergstra et al., Technical Report 1337, University of Montreal, 2009)."""
    return Z / (1 + abs(Z))


def softsign_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA / (1 + |z|)²`` (N12)."""
    inverse = 1 / (1 + abs(Z))
    return dA * (inverse * inverse)


def log_softmax(xp: Namespace, Z: Array) -> Array:
    """Return the logarithm of :func:`softmax`: ``d - log Σ e^d`` for each column, with ``d = z - max z``.

    ``Σ e^d`` is the number of maxima plus a sum that may be tiny. Without one of the maxima, it is the argument of
    log1p, so that the logarithm of a probability close to 1 is accurate.
    """
    D = Z - xp.max(Z, axis=0, keepdims=True)
    rest = xp.sum(xp.where(D < 0, xp.exp(D), D), axis=0, keepdims=True)
    maxima = xp.sum(1 + xp.sign(D), axis=0, keepdims=True)
    return D - xp.log1p(xp.where(maxima > 1.5, rest + (maxima - 1), rest))


def log_softmax_backward(xp: Namespace, dA: Array, Z: Array, A: Array) -> Array:
    """Return ``dZ = dA - e^a Σ dA`` for each column (N12)."""
    return dA - xp.exp(A) * xp.sum(dA, axis=0, keepdims=True)


def normal_cdf(xp: Namespace, Z: Array) -> Array:
    """Return ``Φ(z) = erfc(-z / sqrt 2) / 2``, accurate in both tails.

    erfc is computed from the coefficients ``ERFC``, since the array API standard has no such function.
    """
    X = abs(Z) * sqrt(0.5)
    t = 1 - 6 / (X + 3)  # (X - 3) / (X + 3); in this form, it is 1 where X is infinite
    P = ERFC[-1] * t + ERFC[-2]
    for coefficient in ERFC[-3::-1]:
        P = P * t + coefficient
    tail = 0.5 * xp.exp(-0.5 * Z * Z) * P / (1 + 2 * X)  # x² = z² / 2
    return xp.where(Z > 0, 1 - tail, tail)


def _scalar(xp: Namespace, value: float, Z: Array) -> Array:
    """Return `value` as a 0-d array with the dtype of Z; some libraries' ``maximum`` does not accept Python numbers."""
    return xp.asarray(value, dtype=Z.dtype)


def _step(xp: Namespace, Z: Array) -> Array:
    """Return 1 where ``z > 0``, else 0, with the dtype of Z; the standard does not define products with booleans."""
    return xp.astype(Z > 0, Z.dtype)
