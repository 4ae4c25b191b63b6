"""Chunks of mini-batches inside one compiled call: gather, gradient, clip, update, again and again."""

from math import isfinite, sqrt

from deepnotes_numba.compiling import jit
from deepnotes_numba.interpreter import gradient
from deepnotes_numba.pointers import matrix_at
from deepnotes_numba.updates import ADAM, update


@jit
def gather(X, by_sample, indices, work):
    """Write the columns of X at `indices` to the beginning of the workspace, shape (n, m).

    X is (n, samples), or (samples, n) where `by_sample`.
    """
    m = indices.shape[0]
    n = X.shape[1] if by_sample else X.shape[0]
    out = work[: n * m].reshape(n, m)
    if not by_sample:
        for i in range(n):
            x, o = X[i], out[i]
            for s in range(m):
                o[s] = x[indices[s]]
        return
    for low in range(0, n, 16):  # sixteen features of sixteen samples at a time: both sides stay in the cache
        high = min(n, low + 16)
        for first in range(0, m, 16):
            for s in range(first, min(m, first + 16)):
                x = X[indices[s]]
                for i in range(low, high):
                    out[i, s] = x[i]


@jit
def shares(w, weighted, indices, c):
    """Write what each sample of a batch counts for in the mean to c, (m,), and return what the batch counts for."""
    m = indices.shape[0]
    T = c.dtype.type
    if not weighted:
        for s in range(m):
            c[s] = T(1.0 / m)
        return float(m)
    total = 0.0
    for s in range(m):
        total += w[0, indices[s]]
    for s in range(m):
        c[s] = T(w[0, indices[s]] / total) if total > 0 else T(0)
    return total


@jit
def square_of(g, theta, l2, decaying):
    """Add the gradient of the L2 penalty to g, and return the sum of its squares."""
    if l2 != 0:
        part = g.dtype.type(l2)
        for i in range(decaying):
            g[i] += part * theta[i]
    total = g.dtype.type(0)
    for i in range(g.shape[0]):
        total += g[i] * g[i]
    return total


@jit
def bias_corrected(code, t, rate, epsilon, beta1, beta2):
    """Return the rate and epsilon of update number t, from 1; see :meth:`deepnotes.Adam.scalars`."""
    if code != ADAM:
        return rate, epsilon
    s1 = (1 - beta1**t) / (1 - beta1)
    s2 = (1 - beta2**t) / (1 - beta2)
    return rate * sqrt(s2) / s1, epsilon * sqrt(s2)


@jit
def train(
    layers, options, loss, delta, labelled, weighted, by_sample, x_address, x_shape, Y, w, order, batch, rates, theta,
    g, first, second, work, y, c, optimizer, numbers, decaying, seed, step, safe,
):  # fmt: skip
    """Train on consecutive batches; return the sums of losses and of weights, the updates made, and the last cost.

    It stops before the first update whose cost or gradient is not finite, or so large that the next θ may not be.
    """
    l2, clip, epsilon, beta1, beta2, decay = numbers
    X = matrix_at(x_address, x_shape, theta)
    loss_sum = weight_sum = cost = 0.0
    for made in range(rates.shape[0]):
        indices = order[made * batch : min((made + 1) * batch, order.shape[0])]
        m = indices.shape[0]
        targets = y[: Y.shape[0] * m].reshape(Y.shape[0], m)
        gather(X, by_sample, indices, work)
        gather(Y, False, indices, y)
        weight = shares(w, weighted, indices, c[:m])
        cost = gradient(layers, options, theta, g, work, targets, labelled, c[:m], loss, delta, seed, step)
        norm = sqrt(square_of(g, theta, l2, decaying))
        rate = rates[made]
        if not isfinite(cost) or not rate * max(norm, 1.0) < safe:
            return loss_sum, weight_sum, made, cost
        scale = clip / norm if 0 < clip < norm else 1.0
        lr, eps = bias_corrected(optimizer, step + 1, rate, epsilon, beta1, beta2)
        update(optimizer, theta, g, first, second, scale, lr, eps, beta1, beta2, decaying, rate * decay)
        step += 1
        loss_sum += cost * weight
        weight_sum += weight
    return loss_sum, weight_sum, rates.shape[0], cost
