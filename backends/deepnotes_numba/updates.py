"""Optimizers by code, each one pass over the flat buffers, by the formulas of :mod:`deepnotes.equations.optimizers`."""

from math import sqrt

from deepnotes_numba.compiling import jit

SGD, MOMENTUM, NESTEROV, RMSPROP, ADAM = range(5)


@jit
def update(code, theta, g, first, second, scale, rate, epsilon, beta1, beta2, decaying, share):
    """Update θ with ``scale g``; of θ, the first `decaying` lose their `share` before."""
    T = theta.dtype.type
    k, lr, eps = T(scale), T(rate), T(epsilon)
    b1, b2, rest = T(beta1), T(beta2), T(1 - beta2)
    if share != 0:
        part = T(share)
        for i in range(decaying):
            theta[i] -= part * theta[i]
    if code == SGD:
        for i in range(theta.shape[0]):
            theta[i] -= lr * (k * g[i])
    elif code == MOMENTUM:
        for i in range(theta.shape[0]):
            first[i] = b1 * first[i] + k * g[i]
            theta[i] -= lr * first[i]
    elif code == NESTEROV:
        for i in range(theta.shape[0]):
            x = k * g[i]
            first[i] = b1 * first[i] + x
            theta[i] -= lr * (x + b1 * first[i])
    elif code == RMSPROP:
        for i in range(theta.shape[0]):
            x = k * g[i]
            first[i] = b2 * first[i] + rest * (x * x)
            theta[i] -= lr * (x / (sqrt(first[i]) + eps))
    elif code == ADAM:
        for i in range(theta.shape[0]):
            x = k * g[i]
            first[i] = b1 * first[i] + x
            second[i] = b2 * second[i] + x * x
            theta[i] -= lr * (first[i] / (sqrt(second[i]) + eps))
