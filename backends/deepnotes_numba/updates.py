"""Optimizers, selected by code, in one pass over the flat buffers; see :mod:`deepnotes.equations.optimizers`."""

from math import sqrt

from deepnotes_numba.codes import ADAM, MOMENTUM, NESTEROV, PLAIN, RMSPROP
from deepnotes_numba.compiling import inline_code, jit
from deepnotes_numba.vectors import as_of, block, squares, view


@jit
def add_l2(g, theta, at, n, l2):
    """Add the gradient of the L2 penalty to a range of g; return the sums of squares of g and, if l2 is not 0, of θ."""
    weights = as_of(0, g)
    if l2 != 0:
        G, W, factor = view(g, at, n), view(theta, at, n), as_of(l2, g)
        for i in range(n):
            G[i] += factor * W[i]
        weights = _sum_of_squares(theta, at, n)
    return _sum_of_squares(g, at, n), weights


@jit
def _sum_of_squares(x, at, n):
    lanes = block(x) // 2
    whole = n // lanes * lanes
    total = squares(x, at, n // lanes)
    rest = view(x, at + whole, n - whole)
    for i in range(n - whole):
        total += rest[i] * rest[i]
    return total


@inline_code
def decay(theta, at, n, share):
    """Multiply a range of θ by ``1 - share``."""
    if share != 0:
        W, part = view(theta, at, n), as_of(share, theta)
        for i in range(n):
            W[i] -= part * W[i]


@jit
def update(step, buffers, at, n):  # noqa: C901 - one branch and one loop per optimizer
    """Update a range of θ and of the optimizer's slots."""
    g = buffers.gradient
    W, G = view(buffers.theta, at, n), view(g, at, n)
    scale, lr, eps = as_of(step.scale, g), as_of(step.rate, g), as_of(step.epsilon, g)
    b1, b2, rest = as_of(step.beta1, g), as_of(step.beta2, g), as_of(1 - step.beta2, g)
    if step.code == PLAIN:
        for i in range(n):
            W[i] -= lr * (scale * G[i])
        return
    V = view(buffers.first_slot, at, n)
    if step.code == MOMENTUM:
        for i in range(n):
            V[i] = b1 * V[i] + scale * G[i]
            W[i] -= lr * V[i]
    elif step.code == NESTEROV:
        for i in range(n):
            x = scale * G[i]
            V[i] = b1 * V[i] + x
            W[i] -= lr * (x + b1 * V[i])
    elif step.code == RMSPROP:
        for i in range(n):
            x = scale * G[i]
            V[i] = b2 * V[i] + rest * (x * x)
            W[i] -= lr * (x / (sqrt(V[i]) + eps))
    elif step.code == ADAM:
        U = view(buffers.second_slot, at, n)
        for i in range(n):
            x = scale * G[i]
            V[i] = b1 * V[i] + x
            U[i] = b2 * U[i] + x * x
            W[i] -= lr * (V[i] / (sqrt(U[i]) + eps))
