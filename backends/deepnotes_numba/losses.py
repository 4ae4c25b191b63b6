"""Losses of one block of samples, selected by code, and their derivatives.

The derivatives are with respect to the outputs or, for fused losses, to the logits (N11). The functions for blocks take
the workspace's memory and an :class:`OutputBlock` with the offsets of the block's arrays. They write the derivatives
and the loss of each sample, both multiplied by the sample's share of the mean.
"""

import numpy as np

from deepnotes_numba.codes import (
    ABSOLUTE,
    BINARY,
    CATEGORICAL,
    EXP_FUSED,
    HALF_POISSON,
    HUBER,
    OWN,
    POISSON,
    SIGMOID_FUSED,
    SOFTMAX_FUSED,
    SQUARED,
)
from deepnotes_numba.compiling import inline_code, jit, jit_for
from deepnotes_numba.elementary import HALF, ONE, TWO, ZERO, constant, exp, log, log1p
from deepnotes_numba.vectors import address, as_of, block, invoke, matrix, view

EPS = constant(*(float(np.finfo(dtype).eps) for dtype in ("float32", "float64")))
TINY = constant(*(float(np.finfo(dtype).tiny) for dtype in ("float32", "float64")))


@inline_code
def _binary(option, x, y):
    a = _clip_probability(x)
    return -(y * log(a) + (ONE(a) - y) * log1p(-a))


@inline_code
def _binary_derivative(option, x, y):
    a = _clip_probability(x)
    return (a - y) / (a * (ONE(a) - a))


@inline_code
def _categorical(option, a, y):
    return -y * log(_clip_positive(a))


@inline_code
def _categorical_derivative(option, a, y):
    return -y / _clip_positive(a)


@inline_code
def _squared(option, a, y):
    return (a - y) * (a - y)


@inline_code
def _squared_derivative(option, a, y):
    return TWO(a) * (a - y)


@inline_code
def _absolute(option, a, y):
    return abs(a - y)


@inline_code
def _absolute_derivative(option, a, y):
    e = a - y
    return ONE(e) if e > ZERO(e) else (-ONE(e) if e < ZERO(e) else e)


@inline_code
def _huber(option, a, y):
    e = abs(a - y)
    clipped = option if e > option else e
    return clipped * (e - HALF(e) * clipped)


@inline_code
def _huber_derivative(option, a, y):
    e = a - y
    return option if e > option else (-option if e < -option else e)


@inline_code
def _poisson(option, x, y):
    a = _clip_positive(x)
    return a - y * log(a)


@inline_code
def _poisson_derivative(option, a, y):
    return (_clip_positive(a) - y) / _clip_positive(a)


@inline_code
def _half_poisson(option, x, y):
    a = _clip_positive(x)
    e = a - y
    near = HALF(y) * y > abs(e)
    log_ratio = log1p((e if near else ZERO(e)) / (y if near else ONE(y)))
    return e - y * log_ratio if near else y * (log(y if y > ZERO(y) else ONE(y)) - log(a)) + e


@inline_code
def _half_poisson_of_exp(option, z, y):
    return y * (log(y if y > ZERO(y) else ONE(y)) - z) - y + exp(z)


@inline_code
def _logistic(option, z, y):
    return z * ((ONE(z) if z > ZERO(z) else ZERO(z)) - y) + log1p(exp(-abs(z)))


@inline_code
def _difference(option, a, y):
    return a - y


@inline_code
def _clip_probability(a):
    return EPS(a) if a < EPS(a) else (ONE(a) - EPS(a) if a > ONE(a) - EPS(a) else a)


@inline_code
def _clip_positive(a):
    return TINY(a) if a < TINY(a) else a


@inline_code
def target(i, y, class_indices):
    """Return the target of output i: y itself or, if y is a class index, 1 if it is i and 0 otherwise."""
    return (ONE(y) if y == i else ZERO(y)) if class_indices else y


def _make_block_loss(loss, derivative):
    """Return a function that sums `loss` over the outputs of each sample, and writes the derivatives.

    It takes the offset `x` of the array that `loss` is a function of, Z or A, and the weight `factor` of each output.
    """

    @jit_for(loss, derivative)
    def run(function, memory, outputs, x, factor):
        option, class_indices = function.option, function.class_indices
        S, k, y = block(memory), outputs.k, outputs.y
        X, A, D = matrix(memory, x, k, S), matrix(memory, outputs.a, k, S), matrix(memory, outputs.d, k, S)
        shares, losses = view(memory, outputs.shares, S), view(memory, outputs.losses, S)
        for s in range(S):
            losses[s] = ZERO(factor)
        for i in range(k):
            targets = view(memory, y if class_indices else y + i * S, S)
            for s in range(S):
                t = target(i, targets[s], class_indices)
                losses[s] += shares[s] * factor * loss(option, X[i, s], t)
                D[i, s] = shares[s] * factor * derivative(option, A[i, s], t)

    return run


_binary_block = _make_block_loss(_binary, _binary_derivative)
_categorical_block = _make_block_loss(_categorical, _categorical_derivative)
_squared_block = _make_block_loss(_squared, _squared_derivative)
_absolute_block = _make_block_loss(_absolute, _absolute_derivative)
_huber_block = _make_block_loss(_huber, _huber_derivative)
_poisson_block = _make_block_loss(_poisson, _poisson_derivative)
_half_poisson_block = _make_block_loss(_half_poisson, _poisson_derivative)
_exp_block = _make_block_loss(_half_poisson_of_exp, _difference)
_logistic_block = _make_block_loss(_logistic, _difference)


@jit
def loss_and_delta(function, memory, outputs):  # noqa: C901 - one branch per loss
    """Write the losses and derivatives of a block, for the loss with the code `function.code`."""
    code, z, a = function.code, outputs.z, outputs.a
    one = ONE(function.option)
    factor = one if code == CATEGORICAL else one / as_of(outputs.k, memory)
    if code == OWN:
        places = address(memory, a), address(memory, outputs.y), address(memory, outputs.d)
        rows = address(memory, outputs.shares), address(memory, outputs.losses)
        sizes = outputs.k, block(memory), 1 if function.class_indices else 0
        invoke(function.kernel, (*places, *rows, *sizes, function.constants))
    elif code == SOFTMAX_FUSED:
        _softmax_block(function, memory, outputs)
    elif code == SIGMOID_FUSED:
        _logistic_block(function, memory, outputs, z, factor)
    elif code == BINARY:
        _binary_block(function, memory, outputs, a, factor)
    elif code == CATEGORICAL:
        _categorical_block(function, memory, outputs, a, factor)
    elif code == SQUARED:
        _squared_block(function, memory, outputs, a, factor)
    elif code == ABSOLUTE:
        _absolute_block(function, memory, outputs, a, factor)
    elif code == HUBER:
        _huber_block(function, memory, outputs, a, factor)
    elif code == POISSON:
        _poisson_block(function, memory, outputs, a, factor)
    elif code == HALF_POISSON:
        _half_poisson_block(function, memory, outputs, a, factor)
    elif code == EXP_FUSED:
        _exp_block(function, memory, outputs, z, factor)


@jit
def _softmax_block(function, memory, outputs):
    class_indices, S, k, y = function.class_indices, block(memory), outputs.k, outputs.y
    Z, A, D = matrix(memory, outputs.z, k, S), matrix(memory, outputs.a, k, S), matrix(memory, outputs.d, k, S)
    shares, losses = view(memory, outputs.shares, S), view(memory, outputs.losses, S)
    M, T = view(memory, outputs.largest, S), view(memory, outputs.total, S)
    for s in range(S):
        T[s] = ZERO(T[s])
        losses[s] = M[s] - M[s]  # NaN if the largest logit is not finite
    for i in range(k):
        targets = view(memory, y if class_indices else y + i * S, S)
        for s in range(S):
            T[s] += exp(Z[i, s] - M[s]) - target(i, targets[s], class_indices)
    for s in range(S):
        T[s] = log1p(T[s])
    for i in range(k):
        targets = view(memory, y if class_indices else y + i * S, S)
        for s in range(S):
            t = target(i, targets[s], class_indices)
            loss = t * (T[s] - (Z[i, s] - M[s]))
            losses[s] += shares[s] * (loss if t != ZERO(t) else ZERO(t))
            D[i, s] = shares[s] * (A[i, s] - t)
