"""Activations and their slopes, for single elements and for arrays, selected by code.

Where possible, a slope is a function of ``a = g(z)``, so that A may overwrite Z; otherwise it is a function of z.
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
from deepnotes_numba.compiling import inline_code, jit, jit_for
from deepnotes_numba.elementary import HALF, ONE, THREE, ZERO, constant, exp, expm1, normal_cdf, sigmoid, softplus, tanh
from deepnotes_numba.vectors import block, matrix, view

NEEDS_Z = np.isin(sorted(ACTIVATIONS.values()), (LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SOFTPLUS))
"""Whether the slope of an activation is a function of z, by the code of the activation."""

GELU_SCALE = constant(2 * sqrt(2 / pi), 2 * sqrt(2 / pi))
GELU_CUBIC = constant(0.044715, 0.044715)
NORMAL_DENSITY = constant(1 / sqrt(2 * pi), 1 / sqrt(2 * pi))


@inline_code
def _sigmoid(option, z):
    return sigmoid(z)


@inline_code
def _sigmoid_slope(option, a):
    return a * (ONE(a) - a)


@inline_code
def _tanh(option, z):
    return tanh(z)


@inline_code
def _tanh_slope(option, a):
    return ONE(a) - a * a


@inline_code
def _relu(option, z):
    return ZERO(z) if z < ZERO(z) else z  # NaN is not below zero, so it is returned


@inline_code
def _relu_slope(option, a):
    return ONE(a) if a > ZERO(a) else ZERO(a)


@inline_code
def _leaky_relu(option, z):
    return z if z >= ZERO(z) else option * z


@inline_code
def _leaky_relu_slope(option, z):
    return ONE(z) if z > ZERO(z) else option


@inline_code
def _elu(option, z):
    return z if z > ZERO(z) else option * expm1(ZERO(z) if z > ZERO(z) else z)


@inline_code
def _elu_slope(option, z):
    return ONE(z) if z > ZERO(z) else option * exp(z)


@inline_code
def _gelu(option, z):
    return z * normal_cdf(z)


@inline_code
def _gelu_slope(option, z):
    return normal_cdf(z) + z * (NORMAL_DENSITY(z) * exp(-HALF(z) * z * z))


@inline_code
def _gelu_tanh(option, z):
    return z / (ONE(z) + exp(-GELU_SCALE(z) * (z + GELU_CUBIC(z) * z * z * z)))


@inline_code
def _gelu_tanh_slope(option, z):
    s = sigmoid(GELU_SCALE(z) * (z + GELU_CUBIC(z) * z * z * z))
    t = z * (s * (ONE(z) - s))  # reaches 0 long before z * z overflows
    return s + GELU_SCALE(z) * t + THREE(z) * GELU_CUBIC(z) * GELU_SCALE(z) * (t * z * z)


@inline_code
def _silu(option, z):
    return z / (ONE(z) + exp(-z))


@inline_code
def _silu_slope(option, z):
    s = sigmoid(z)
    return s * (ONE(z) + z * (ONE(z) - s))


@inline_code
def _softplus(option, z):
    return softplus(z)


@inline_code
def _softplus_slope(option, z):
    return sigmoid(z)


@inline_code
def _exp(option, z):
    return exp(z)


@inline_code
def _exp_slope(option, a):
    return a


def _make_in_place(g):
    """Return a function that replaces each element z of A by ``g(option, z)``."""

    @jit_for(g)
    def run(option, A):
        for i in range(A.shape[0]):
            A[i] = g(option, A[i])

    return run


def _make_writer(g):
    """Return a function that writes ``g(option, z)`` for each element of Z to A."""

    @jit_for(g)
    def run(option, Z, A):
        for i in range(Z.shape[0]):
            A[i] = g(option, Z[i])

    return run


def _make_slope_product(slope):
    """Return a function that multiplies each element of D by ``slope(option, x)``, for the element x of X."""

    @jit_for(slope)
    def run(option, D, X):
        for i in range(D.shape[0]):
            D[i] *= slope(option, X[i])

    return run


# Separate loops in place, since a loop over two arrays that may overlap is not vectorised.
_sigmoid_in_place, _tanh_in_place, _relu_in_place = (
    _make_in_place(_sigmoid),
    _make_in_place(_tanh),
    _make_in_place(_relu),
)
_write_sigmoid, _write_tanh, _write_relu = _make_writer(_sigmoid), _make_writer(_tanh), _make_writer(_relu)
_write_leaky_relu, _write_elu, _write_gelu = _make_writer(_leaky_relu), _make_writer(_elu), _make_writer(_gelu)
_write_gelu_tanh, _write_silu, _write_softplus = _make_writer(_gelu_tanh), _make_writer(_silu), _make_writer(_softplus)
_multiply_by_sigmoid_slope, _multiply_by_tanh_slope, _multiply_by_relu_slope = (
    _make_slope_product(_sigmoid_slope),
    _make_slope_product(_tanh_slope),
    _make_slope_product(_relu_slope),
)
_multiply_by_leaky_relu_slope, _multiply_by_elu_slope, _multiply_by_gelu_slope = (
    _make_slope_product(_leaky_relu_slope),
    _make_slope_product(_elu_slope),
    _make_slope_product(_gelu_slope),
)
_multiply_by_gelu_tanh_slope, _multiply_by_silu_slope = (
    _make_slope_product(_gelu_tanh_slope),
    _make_slope_product(_silu_slope),
)
_multiply_by_softplus_slope = _make_slope_product(_softplus_slope)
_exp_in_place, _write_exp, _multiply_by_exp_slope = (
    _make_in_place(_exp),
    _make_writer(_exp),
    _make_slope_product(_exp_slope),
)


@jit
def activate_in_place(code, option, A):
    """Replace Z, stored in A, by ``g(Z)`` (N3); A is one-dimensional. The slope of g must be a function of a."""
    if code == RELU:
        _relu_in_place(option, A)
    elif code == SIGMOID:
        _sigmoid_in_place(option, A)
    elif code == TANH:
        _tanh_in_place(option, A)
    elif code == EXP:
        _exp_in_place(option, A)


@jit
def activate(code, option, Z, A):  # noqa: C901 - one branch per activation
    """Write ``A = g(Z)`` (N3), for any g but softmax; Z and A are one-dimensional and do not overlap."""
    if code == RELU:
        _write_relu(option, Z, A)
    elif code == SIGMOID:
        _write_sigmoid(option, Z, A)
    elif code == TANH:
        _write_tanh(option, Z, A)
    elif code == LEAKY_RELU:
        _write_leaky_relu(option, Z, A)
    elif code == ELU:
        _write_elu(option, Z, A)
    elif code == GELU:
        _write_gelu(option, Z, A)
    elif code == GELU_TANH:
        _write_gelu_tanh(option, Z, A)
    elif code == SILU:
        _write_silu(option, Z, A)
    elif code == SOFTPLUS:
        _write_softplus(option, Z, A)
    elif code == EXP:
        _write_exp(option, Z, A)
    else:
        for i in range(Z.shape[0]):
            A[i] = Z[i]


@jit
def backward(code, option, D, Z, A):  # noqa: C901 - one branch per activation
    """Replace dA, stored in D, by ``dZ = dA * g'(Z)`` (N12), for any g but softmax."""
    if code == RELU:
        _multiply_by_relu_slope(option, D, A)
    elif code == SIGMOID:
        _multiply_by_sigmoid_slope(option, D, A)
    elif code == TANH:
        _multiply_by_tanh_slope(option, D, A)
    elif code == LEAKY_RELU:
        _multiply_by_leaky_relu_slope(option, D, Z)
    elif code == ELU:
        _multiply_by_elu_slope(option, D, Z)
    elif code == GELU:
        _multiply_by_gelu_slope(option, D, Z)
    elif code == GELU_TANH:
        _multiply_by_gelu_tanh_slope(option, D, Z)
    elif code == SILU:
        _multiply_by_silu_slope(option, D, Z)
    elif code == SOFTPLUS:
        _multiply_by_softplus_slope(option, D, Z)
    elif code == EXP:
        _multiply_by_exp_slope(option, D, A)


@jit
def softmax(work, z, a, n, largest, total):
    """Write the softmax of the block at offset `z`, n rows, to the block at offset `a`.

    For each sample, the largest logit and the sum of ``e^(z - largest)``, which the loss needs, are written to the rows
    at the offsets `largest` and `total`.
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
    """Replace dA, the block at offset `d`, by ``dZ = a * (dA - Σ dA a)``; the row at offset `total` is overwritten."""
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
