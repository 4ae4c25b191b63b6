"""Activations and their backward forms, by code: fused with the bias (N2), and with N12 and N14.

Each is a small function of its own, since a compiler makes little of a loop with many branches.
"""

from math import erfc, exp, expm1, log1p, pi, sqrt, tanh

import numpy as np

from deepnotes_numba.compiling import jit

IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, ELU, GELU, GELU_TANH, SILU, SOFTPLUS = range(11)
CODES = {
    "identity": IDENTITY, "sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "leaky_relu": LEAKY_RELU, "softmax": SOFTMAX,
    "elu": ELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU, "softplus": SOFTPLUS,
}  # fmt: skip
NEEDS_Z = np.array([code in (LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SOFTPLUS) for code in range(11)])
"""Activations whose backward form reads Z; for the others A may lie where Z was."""

C = 2 * sqrt(2 / pi)
CUBIC = 0.044715
ROOT_HALF = sqrt(0.5)
DENSITY = 1 / sqrt(2 * pi)


@jit
def activate(code, option, Z, b, A, shared):
    """Add the bias to Z, (n, m), in place, and write ``A = g(Z)`` to A (N2, N3), which is Z itself where `shared`.

    Where A may be Z the functions below work on A alone: a loop over two arrays that may overlap is not vectorised.
    """
    if shared and code == RELU:
        _add_bias_relu(A, b)
        return
    _add_bias(Z, b)
    if code == LEAKY_RELU:
        _leaky_relu(option, Z, A)
    elif code == ELU:
        _elu(option, Z, A)
    elif code == GELU:
        _gelu(Z, A)
    elif code == GELU_TANH:
        _gelu_tanh(Z, A)
    elif code == SILU:
        _silu(Z, A)
    elif code == SOFTPLUS:
        _softplus(Z, A)
    else:
        if not shared:
            A[:] = Z
        if code == RELU:
            _relu(A)
        elif code == SIGMOID:
            _sigmoid(A)
        elif code == TANH:
            _tanh(A)
        elif code == SOFTMAX:
            _softmax(A)


@jit
def backward(code, option, D, Z, A, db):
    """Turn D from dA into ``dZ = dA * g'(Z)`` (N12), in place, and write its row sums to db (N14)."""
    if code == RELU:
        _relu_backward(D, A, db)
        return
    if code == SIGMOID:
        _sigmoid_backward(D, A)
    elif code == TANH:
        _tanh_backward(D, A)
    elif code == LEAKY_RELU:
        _leaky_relu_backward(option, D, Z)
    elif code == SOFTMAX:
        _softmax_backward(D, A)
    elif code == ELU:
        _elu_backward(option, D, Z)
    elif code == GELU:
        _gelu_backward(D, Z)
    elif code == GELU_TANH:
        _gelu_tanh_backward(D, Z)
    elif code == SILU:
        _silu_backward(D, Z)
    elif code == SOFTPLUS:
        _softplus_backward(D, Z)
    _row_sums(D, db)


@jit
def _add_bias(Z, b):
    for i in range(Z.shape[0]):
        bias = b[i]
        for s in range(Z.shape[1]):
            Z[i, s] += bias


@jit
def _row_sums(D, db):
    for i in range(D.shape[0]):
        total = D.dtype.type(0)
        for s in range(D.shape[1]):
            total += D[i, s]
        db[i] = total


@jit
def _add_bias_relu(A, b):
    zero = A.dtype.type(0)
    for i in range(A.shape[0]):
        bias = b[i]
        for s in range(A.shape[1]):
            x = A[i, s] + bias
            A[i, s] = zero if x < zero else x  # NaN is not below zero, and stays


@jit
def _relu(A):
    zero = A.dtype.type(0)
    for i in range(A.shape[0]):
        for s in range(A.shape[1]):
            x = A[i, s]
            A[i, s] = zero if x < zero else x


@jit
def _relu_backward(D, A, db):
    one, zero = D.dtype.type(1), D.dtype.type(0)
    for i in range(D.shape[0]):
        total = zero
        for s in range(D.shape[1]):
            x = D[i, s] * (one if A[i, s] > zero else zero)
            D[i, s] = x
            total += x
        db[i] = total


@jit
def _sigmoid(A):
    one = A.dtype.type(1)
    for i in range(A.shape[0]):
        for s in range(A.shape[1]):
            A[i, s] = one / (one + exp(-A[i, s]))


@jit
def _sigmoid_backward(D, A):
    one = D.dtype.type(1)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            D[i, s] *= A[i, s] * (one - A[i, s])


@jit
def _tanh(A):
    for i in range(A.shape[0]):
        for s in range(A.shape[1]):
            A[i, s] = tanh(A[i, s])


@jit
def _tanh_backward(D, A):
    one = D.dtype.type(1)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            D[i, s] *= one - A[i, s] * A[i, s]


@jit
def _leaky_relu(option, Z, A):
    zero, slope = Z.dtype.type(0), Z.dtype.type(option)
    for i in range(Z.shape[0]):
        for s in range(Z.shape[1]):
            x = Z[i, s]
            A[i, s] = x if x >= zero else slope * x


@jit
def _leaky_relu_backward(option, D, Z):
    one, zero, slope = D.dtype.type(1), D.dtype.type(0), D.dtype.type(option)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            D[i, s] *= one if Z[i, s] > zero else slope


@jit
def _softmax(A):
    n, m = A.shape
    for s in range(m):
        largest = A[0, s]
        for i in range(1, n):
            x = A[i, s]
            if x > largest or x != x:
                largest = x
        total = A.dtype.type(0)
        for i in range(n):
            e = exp(A[i, s] - largest)
            A[i, s] = e
            total += e
        for i in range(n):
            A[i, s] /= total


@jit
def _softmax_backward(D, A):
    n, m = D.shape
    for s in range(m):
        total = D.dtype.type(0)
        for i in range(n):
            total += D[i, s] * A[i, s]
        for i in range(n):
            D[i, s] = A[i, s] * (D[i, s] - total)


@jit
def _elu(option, Z, A):
    zero, alpha = Z.dtype.type(0), Z.dtype.type(option)
    for i in range(Z.shape[0]):
        for s in range(Z.shape[1]):
            x = Z[i, s]
            A[i, s] = x if x > zero else alpha * expm1(x)


@jit
def _elu_backward(option, D, Z):
    one, zero, alpha = D.dtype.type(1), D.dtype.type(0), D.dtype.type(option)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            D[i, s] *= one if Z[i, s] > zero else alpha * exp(Z[i, s])


@jit
def _gelu(Z, A):
    T = Z.dtype.type
    for i in range(Z.shape[0]):
        for s in range(Z.shape[1]):
            x = Z[i, s]
            A[i, s] = x * T(0.5 * erfc(-float(x) * ROOT_HALF))


@jit
def _gelu_backward(D, Z):
    T = D.dtype.type
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            x = float(Z[i, s])
            D[i, s] *= T(0.5 * erfc(-x * ROOT_HALF) + x * (DENSITY * exp(-0.5 * x * x)))


@jit
def _gelu_tanh(Z, A):
    T = Z.dtype.type
    one, c, k = T(1), T(C), T(CUBIC)
    for i in range(Z.shape[0]):
        for s in range(Z.shape[1]):
            x = Z[i, s]
            A[i, s] = x / (one + exp(-c * (x + k * x * x * x)))


@jit
def _gelu_tanh_backward(D, Z):
    T = D.dtype.type
    one, c, k, three = T(1), T(C), T(CUBIC), T(3)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            x = Z[i, s]
            y = one / (one + exp(-c * (x + k * x * x * x)))
            D[i, s] *= y + y * (one - y) * x * (c + three * k * c * x * x)


@jit
def _silu(Z, A):
    one = Z.dtype.type(1)
    for i in range(Z.shape[0]):
        for s in range(Z.shape[1]):
            x = Z[i, s]
            A[i, s] = x / (one + exp(-x))


@jit
def _silu_backward(D, Z):
    one = D.dtype.type(1)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            y = one / (one + exp(-Z[i, s]))
            D[i, s] *= y * (one + Z[i, s] * (one - y))


@jit
def _softplus(Z, A):
    zero = Z.dtype.type(0)
    for i in range(Z.shape[0]):
        for s in range(Z.shape[1]):
            x = Z[i, s]
            A[i, s] = (zero if x < zero else x) + log1p(exp(-abs(x)))


@jit
def _softplus_backward(D, Z):
    one = D.dtype.type(1)
    for i in range(D.shape[0]):
        for s in range(D.shape[1]):
            D[i, s] *= one / (one + exp(-Z[i, s]))
