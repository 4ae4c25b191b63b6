"""Optimizers by code, each one pass over the flat buffers, by the formulas of :mod:`deepnotes.equations.optimizers`."""

from math import sqrt

from deepnotes_numba.codes import ADAM, MOMENTUM, NESTEROV, PLAIN, RMSPROP
from deepnotes_numba.compiling import inlined, jit
from deepnotes_numba.vectors import as_of, block, squares, view


@jit
def squares_of(g, theta, at, n, l2):
    """Add the gradient of the L2 penalty to a range of g; return the sums of its squares and, with L2, of theta's."""
    weights = as_of(0, g)
    if l2 != 0:
        G, W, part = view(g, at, n), view(theta, at, n), as_of(l2, g)
        for i in range(n):
            G[i] += part * W[i]
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


@inlined
def update(code, theta, g, first, second, at, n, scale, rate, epsilon, beta1, beta2, decay):
    """Update a range of θ with ``scale g``; it loses its share `decay` before."""
    W, G = view(theta, at, n), view(g, at, n)
    k, lr, eps = as_of(scale, g), as_of(rate, g), as_of(epsilon, g)
    b1, b2, rest = as_of(beta1, g), as_of(beta2, g), as_of(1 - beta2, g)
    if decay != 0:
        part = as_of(decay, g)
        for i in range(n):
            W[i] -= part * W[i]
    if code == PLAIN:
        for i in range(n):
            W[i] -= lr * (k * G[i])
        return
    V = view(first, at, n)
    if code == MOMENTUM:
        for i in range(n):
            V[i] = b1 * V[i] + k * G[i]
            W[i] -= lr * V[i]
    elif code == NESTEROV:
        for i in range(n):
            x = k * G[i]
            V[i] = b1 * V[i] + x
            W[i] -= lr * (x + b1 * V[i])
    elif code == RMSPROP:
        for i in range(n):
            x = k * G[i]
            V[i] = b2 * V[i] + rest * (x * x)
            W[i] -= lr * (x / (sqrt(V[i]) + eps))
    elif code == ADAM:
        U = view(second, at, n)
        for i in range(n):
            x = k * G[i]
            V[i] = b1 * V[i] + x
            U[i] = b2 * U[i] + x * x
            W[i] -= lr * (V[i] / (sqrt(U[i]) + eps))
