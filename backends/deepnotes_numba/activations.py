"""Activations and their slopes, of one element and of arrays, and their dispatch by code.

A slope is a function of z, or of ``a = g(z)`` where possible: then A may overwrite Z.
"""

from math import pi, sqrt

import numpy as np

from deepnotes_numba.codes import (
    ACTIVATIONS,
    ELU,
    EXP,
    GELU,
    GELU_TANH,
    LEAKY_RELU,
    RELU,
    SIGMOID,
    SILU,
    SOFTPLUS,
    TANH,
)
from deepnotes_numba.compiling import inlined, jit, jit_for
from deepnotes_numba.elementary import HALF, ONE, THREE, ZERO, constant, exp, expm1, normal_cdf, sigmoid, softplus, tanh
from deepnotes_numba.vectors import block, matrix, view

NEEDS_Z = np.isin(sorted(ACTIVATIONS.values()), (LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SOFTPLUS))
"""Activations whose slope is a function of z."""

C = constant(2 * sqrt(2 / pi), 2 * sqrt(2 / pi))
CUBIC = constant(0.044715, 0.044715)
DENSITY = constant(1 / sqrt(2 * pi), 1 / sqrt(2 * pi))


@inlined
def _sigmoid(option, z):
    return sigmoid(z)


@inlined
def _sigmoid_slope(option, a):
    return a * (ONE(a) - a)


@inlined
def _tanh(option, z):
    return tanh(z)


@inlined
def _tanh_slope(option, a):
    return ONE(a) - a * a


@inlined
def _relu(option, z):
    return ZERO(z) if z < ZERO(z) else z  # NaN is not below zero, so it is returned


@inlined
def _relu_slope(option, a):
    return ONE(a) if a > ZERO(a) else ZERO(a)


@inlined
def _leaky_relu(option, z):
    return z if z >= ZERO(z) else option * z


@inlined
def _leaky_relu_slope(option, z):
    return ONE(z) if z > ZERO(z) else option


@inlined
def _elu(option, z):
    return z if z > ZERO(z) else option * expm1(ZERO(z) if z > ZERO(z) else z)


@inlined
def _elu_slope(option, z):
    return ONE(z) if z > ZERO(z) else option * exp(z)


@inlined
def _gelu(option, z):
    return z * normal_cdf(z)


@inlined
def _gelu_slope(option, z):
    return normal_cdf(z) + z * (DENSITY(z) * exp(-HALF(z) * z * z))


@inlined
def _gelu_tanh(option, z):
    return z / (ONE(z) + exp(-C(z) * (z + CUBIC(z) * z * z * z)))


@inlined
def _gelu_tanh_slope(option, z):
    s = sigmoid(C(z) * (z + CUBIC(z) * z * z * z))
    t = z * (s * (ONE(z) - s))  # reaches 0 long before z * z overflows
    return s + C(z) * t + THREE(z) * CUBIC(z) * C(z) * (t * z * z)


@inlined
def _silu(option, z):
    return z / (ONE(z) + exp(-z))


@inlined
def _silu_slope(option, z):
    s = sigmoid(z)
    return s * (ONE(z) + z * (ONE(z) - s))


@inlined
def _softplus(option, z):
    return softplus(z)


@inlined
def _softplus_slope(option, z):
    return sigmoid(z)


@inlined
def _exp(option, z):
    return exp(z)


@inlined
def _exp_slope(option, a):
    return a


def _in_place(g):
    @jit_for(g)
    def run(option, A):
        for i in range(A.shape[0]):
            A[i] = g(option, A[i])

    return run


def _elementwise(g):
    """Return a function that writes ``g(option, z)`` for each element of Z to A."""

    @jit_for(g)
    def run(option, Z, A):
        for i in range(Z.shape[0]):
            A[i] = g(option, Z[i])

    return run


def _times(slope):
    @jit_for(slope)
    def run(option, D, X):
        for i in range(D.shape[0]):
            D[i] *= slope(option, X[i])

    return run


# A loop over two arrays that may be the same is not vectorised, hence the loops in place.
_sigmoid_here, _tanh_here, _relu_here = _in_place(_sigmoid), _in_place(_tanh), _in_place(_relu)
_sigmoid_to, _tanh_to, _relu_to = _elementwise(_sigmoid), _elementwise(_tanh), _elementwise(_relu)
_leaky_relu_to, _elu_to, _gelu_to = _elementwise(_leaky_relu), _elementwise(_elu), _elementwise(_gelu)
_gelu_tanh_to, _silu_to, _softplus_to = _elementwise(_gelu_tanh), _elementwise(_silu), _elementwise(_softplus)
_times_sigmoid, _times_tanh, _times_relu = _times(_sigmoid_slope), _times(_tanh_slope), _times(_relu_slope)
_times_leaky_relu, _times_elu, _times_gelu = _times(_leaky_relu_slope), _times(_elu_slope), _times(_gelu_slope)
_times_gelu_tanh, _times_silu = _times(_gelu_tanh_slope), _times(_silu_slope)
_times_softplus = _times(_softplus_slope)
_exp_here, _exp_to, _times_exp = _in_place(_exp), _elementwise(_exp), _times(_exp_slope)


@jit
def activate_in_place(code, option, A):
    """Replace Z, in A, by ``A = g(Z)`` (N3), for an activation whose slope is a function of A; A is one-dimensional."""
    if code == RELU:
        _relu_here(option, A)
    elif code == SIGMOID:
        _sigmoid_here(option, A)
    elif code == TANH:
        _tanh_here(option, A)
    elif code == EXP:
        _exp_here(option, A)


@jit
def activate(code, option, Z, A):  # noqa: C901 - one branch per activation
    """Write ``A = g(Z)`` (N3) for any activation but softmax; Z and A are one-dimensional, and share no memory."""
    if code == RELU:
        _relu_to(option, Z, A)
    elif code == SIGMOID:
        _sigmoid_to(option, Z, A)
    elif code == TANH:
        _tanh_to(option, Z, A)
    elif code == LEAKY_RELU:
        _leaky_relu_to(option, Z, A)
    elif code == ELU:
        _elu_to(option, Z, A)
    elif code == GELU:
        _gelu_to(option, Z, A)
    elif code == GELU_TANH:
        _gelu_tanh_to(option, Z, A)
    elif code == SILU:
        _silu_to(option, Z, A)
    elif code == SOFTPLUS:
        _softplus_to(option, Z, A)
    elif code == EXP:
        _exp_to(option, Z, A)
    else:
        for i in range(Z.shape[0]):
            A[i] = Z[i]


@jit
def backward(code, option, D, Z, A):  # noqa: C901 - one branch per activation
    """Replace dA, in D, by ``dZ = dA * g'(Z)`` (N12), for any activation but softmax."""
    if code == RELU:
        _times_relu(option, D, A)
    elif code == SIGMOID:
        _times_sigmoid(option, D, A)
    elif code == TANH:
        _times_tanh(option, D, A)
    elif code == LEAKY_RELU:
        _times_leaky_relu(option, D, Z)
    elif code == ELU:
        _times_elu(option, D, Z)
    elif code == GELU:
        _times_gelu(option, D, Z)
    elif code == GELU_TANH:
        _times_gelu_tanh(option, D, Z)
    elif code == SILU:
        _times_silu(option, D, Z)
    elif code == SOFTPLUS:
        _times_softplus(option, D, Z)
    elif code == EXP:
        _times_exp(option, D, A)


@jit
def softmax(work, z, a, n, largest, total):
    """Write the softmax of the n rows of the block at offset `z` to the block at `a`.

    The largest logits and the sums of ``e^(z - largest)``, which the loss needs, are written to the rows at `largest`
    and `total`.
    """
    S = block(work)
    M, T = view(work, largest, S), view(work, total, S)
    Z, A = matrix(work, z, n, S), matrix(work, a, n, S)
    for s in range(S):
        M[s] = Z[0, s]
        T[s] = ZERO(T[s])
    for i in range(1, n):
        row = view(work, z + i * S, S)
        for s in range(S):
            M[s] = row[s] if row[s] > M[s] or row[s] != row[s] else M[s]
    for i in range(n):
        for s in range(S):
            e = exp(Z[i, s] - M[s])
            A[i, s] = e
            T[s] += e
    for i in range(n):
        for s in range(S):
            A[i, s] /= T[s]


@jit
def softmax_backward(work, d, a, n, total):
    """Replace dA, in the block at `d`, by ``dZ = a * (dA - Σ dA a)``; the row at `total` is overwritten."""
    S = block(work)
    T, D, A = view(work, total, S), matrix(work, d, n, S), matrix(work, a, n, S)
    for s in range(S):
        T[s] = ZERO(T[s])
    for i in range(n):
        for s in range(S):
            T[s] += D[i, s] * A[i, s]
    for i in range(n):
        for s in range(S):
            D[i, s] = A[i, s] * (D[i, s] - T[s])


@jit
def softmax_of(Z):
    """Replace the elements of one vector by their softmax."""
    largest = Z[0]
    for i in range(1, Z.shape[0]):
        largest = Z[i] if Z[i] > largest or Z[i] != Z[i] else largest
    for i in range(Z.shape[0]):
        Z[i] = exp(Z[i] - largest)
    total = ZERO(largest)
    for i in range(Z.shape[0]):
        total += Z[i]
    for i in range(Z.shape[0]):
        Z[i] /= total
