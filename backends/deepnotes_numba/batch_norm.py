"""Batch normalization, feature by feature; see :class:`deepnotes.nn.BatchNorm` for the equations.

A thread computes some features for all samples of the batch, so that their sums do not depend on the number of threads.
The samples that fill up the last block count in no sum, and their derivatives are 0.
"""

from math import sqrt

from deepnotes_numba.batches import add
from deepnotes_numba.compiling import inline_source, jit
from deepnotes_numba.lanes import load, spread, store
from deepnotes_numba.products import INT_ZERO, RUN, padded
from deepnotes_numba.vectors import as_of, block, pointer_to, scratch, sums1, view


@jit
def normalize_batch(theta, layer, memory, a_prev, blocks, samples, rows):
    """Write A of some rows, and keep what the backward pass needs: X_hat, and the mean, the variance and ``inverse``.

    One sample is normalized by the running statistics.
    """
    S, n = block(memory), layer.n
    step = padded(n, memory) * S
    parameters, moments = view(theta, layer.parameters, 2 * n), view(memory, layer.moments, 3 * n)
    for i in range(rows[0], rows[1]):
        x, a, x_hat = a_prev + i * S, layer.A + i * S, layer.X_hat + i * S
        if samples > 1:
            mean = as_of(_sum_over_samples(memory, x, step, samples) / samples, memory)
            for at in range(blocks[0], blocks[1]):
                deviation = load(memory, x + at * step, None) - spread(mean)
                store(memory, a + at * step, deviation * deviation, None)
            variance = as_of(_sum_over_samples(memory, a, step, samples) / samples, memory)
        else:
            mean, variance = _running(theta, layer, i)
        inverse = _inverse_std(layer, variance, memory)
        moments[i], moments[n + i], moments[2 * n + i] = mean, variance, inverse
        gamma, beta = parameters[i], parameters[n + i]
        for at in range(blocks[0], blocks[1]):
            X_hat = (load(memory, x + at * step, None) - spread(mean)) * spread(inverse)
            store(memory, x_hat + at * step, X_hat, None)
            store(memory, a + at * step, spread(gamma) * X_hat + spread(beta), None)


@jit
def normalize_by_running_statistics(theta, layer, X, x, A, blocks, rows, m):
    """Write A of some rows in a prediction, for blocks of m samples at offset `x` of X."""
    n = layer.n
    step, parameters = padded(n, X) * m, view(theta, layer.parameters, 2 * n)
    for i in range(rows[0], rows[1]):
        mean, variance = _running(theta, layer, i)
        inverse = _inverse_std(layer, variance, theta)
        gamma, beta = parameters[i], parameters[n + i]
        for at in range(blocks[0], blocks[1]):
            row, out = view(X, x + at * step + i * m, m), view(A, layer.A + at * step + i * m, m)
            for s in range(m):
                out[s] = gamma * ((row[s] - mean) * inverse) + beta


@jit
def differentiate_batch(buffers, layer, memory, d, d_prev, blocks, samples, rows):
    """Write the gradients of gamma and beta in some rows, and dA_prev to offset `d_prev`, unless that is 0.

    dA, at offset `d`, includes the factor 1/m, so that the gradients are sums. A is overwritten.
    """
    S, n = block(memory), layer.n
    step = padded(n, memory) * S
    parameters, g = view(buffers.theta, layer.parameters, 2 * n), view(buffers.gradient, layer.parameters, 2 * n)
    moments = view(memory, layer.moments, 3 * n)
    for i in range(rows[0], rows[1]):
        of_row, terms, x_hat = d + i * S, layer.A + i * S, layer.X_hat + i * S
        for at in range(blocks[0], blocks[1]):
            dA, X_hat = load(memory, of_row + at * step, None), load(memory, x_hat + at * step, None)
            store(memory, terms + at * step, dA * X_hat, None)
        dgamma = _sum_over_samples(memory, terms, step, samples)
        dbeta = _sum_over_samples(memory, of_row, step, samples)
        g[i], g[n + i] = dgamma, dbeta
        if d_prev == 0:
            continue
        # The running statistics do not depend on the sample, so nothing is subtracted from its derivative.
        mean_of_dA, mean_of_products = as_of(0, memory), as_of(0, memory)
        if samples > 1:
            mean_of_dA, mean_of_products = as_of(dbeta / samples, memory), as_of(dgamma / samples, memory)
        factor, out = parameters[i] * moments[2 * n + i], d_prev + i * S
        for at in range(blocks[0], blocks[1]):
            dA, X_hat = load(memory, of_row + at * step, None), load(memory, x_hat + at * step, None)
            dA_prev = spread(factor) * (dA - spread(mean_of_dA) - X_hat * spread(mean_of_products))
            store(memory, out + at * step, dA_prev, None)
        last = view(memory, out + (blocks[1] - 1) * step, S)
        for s in range(samples - (blocks[1] - 1) * S, S):
            last[s] = 0


@jit
def write_changes(buffers, layer, memory, samples, part, rows):
    """Write the changes of the running statistics in some rows, times `part`; return 0, or NaN if one is not finite."""
    n, zero = layer.n, 0.0
    momentum = view(pointer_to(layer.constants, memory), 0, 2)[1]
    running, changes = view(buffers.theta, layer.running, 2 * n), view(buffers.gradient, layer.running, 2 * n)
    moments = view(memory, layer.moments, 2 * n)
    unbiased = as_of(samples / (samples - 1), memory) if samples > 1 else as_of(0, memory)
    factor = as_of(part if samples > 1 else 0.0, memory)
    for i in range(rows[0], rows[1]):
        changes[i] = factor * (momentum * (running[i] - moments[i]))
        changes[n + i] = factor * (momentum * (running[n + i] - moments[n + i] * unbiased))
        zero += 0.0 * changes[i] + 0.0 * changes[n + i]
    return zero


@inline_source
def _running(theta, layer, i):
    """Return the running mean and variance of row i."""
    statistics = view(theta, layer.running, 2 * layer.n)
    return statistics[i], statistics[layer.n + i]


@inline_source
def _inverse_std(layer, variance, like):
    epsilon = view(pointer_to(layer.constants, like), 0, 2)[0]
    return as_of(1 / sqrt(variance + epsilon), like)


@jit
def _sum_over_samples(x, at, step, samples):
    """Return the sum of a row over the first `samples` samples; the error does not grow with the number of runs."""
    S = block(x)
    whole, run = samples // S, RUN // S
    part = scratch(x)
    sums = view(part, 0, 1)
    total = rest = 0.0
    for first in range(0, whole, run):
        sums1(x, at + first * step, step, min(run, whole - first), part, INT_ZERO)
        total, rest = add(total, rest, sums[0])
    of_last = view(x, at + whole * step, samples - whole * S)
    for s in range(of_last.shape[0]):
        total, rest = add(total, rest, of_last[s])
    return total + rest
