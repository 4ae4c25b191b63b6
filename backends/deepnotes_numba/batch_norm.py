"""Batch normalization, feature by feature; see :class:`deepnotes.nn.BatchNorm` for the equations.

A thread computes some features for all samples of the batch, so that their sums do not depend on the number of threads.
The samples that fill up the last block count in no sum: their derivatives are 0.
"""

from math import sqrt

from deepnotes_numba.batches import add
from deepnotes_numba.compiling import inline_source, jit
from deepnotes_numba.lanes import first_lanes, load, spread, store, where
from deepnotes_numba.products import INT_ZERO, RUN, padded
from deepnotes_numba.vectors import as_of, block, doubles, pointer_to, scratch, sums1, sums8, view

TOGETHER = 8
"""The number of features whose sums are computed together."""


@jit
def normalize_batch(theta, layer, memory, a_prev, blocks, samples, rows):
    """Write A of some rows, and keep what the backward pass needs: X_hat, and the mean, the variance and ``inverse``.

    One sample is normalized by the running statistics.
    """
    S, n = block(memory), layer.n
    step = padded(n, memory) * S
    parameters, moments = view(theta, layer.parameters, 2 * n), view(memory, layer.moments, 3 * n)
    for first in range(rows[0], rows[1], TOGETHER):
        group = first, min(rows[1], first + TOGETHER)
        if samples > 1:
            _write_moments(layer, memory, a_prev, samples, group)
        else:
            for i in range(group[0], group[1]):
                moments[i], moments[n + i] = _running(theta, layer, i)
        for i in range(group[0], group[1]):
            moments[2 * n + i] = _inverse_std(layer, moments[n + i], memory)
        for i in range(group[0], group[1]):
            mean, inverse = spread(moments[i]), spread(moments[2 * n + i])
            gamma, beta = spread(parameters[i]), spread(parameters[n + i])
            for at in range(blocks[0] * step + i * S, blocks[1] * step, step):
                X_hat = (load(memory, a_prev + at, None) - mean) * inverse
                store(memory, layer.X_hat + at, X_hat, None)
                store(memory, layer.A + at, gamma * X_hat + beta, None)


@jit
def _write_moments(layer, memory, a_prev, samples, group):
    """Write the means and the variances of a group of rows over all samples. A is overwritten."""
    S, n = block(memory), layer.n
    step, whole = padded(n, memory) * S, samples // S
    means, variances = view(memory, layer.moments, n), view(memory, layer.moments + n, n)
    zero = spread(as_of(0, memory))
    last, counted = whole * step, first_lanes(samples % S, zero)  # the last block, if it is not full
    sums = view(doubles(), 0, 2 * TOGETHER)
    _clear(sums)
    _add_rows(memory, a_prev, step, whole, group, sums)
    if samples % S > 0:
        for at in range(last + group[0] * S, last + group[1] * S, S):
            store(memory, layer.A + at, load(memory, a_prev + at, counted), None)
        _add_rows(memory, layer.A + last, step, 1, group, sums)
    for i in range(group[0], group[1]):
        means[i] = as_of(_sum(sums, i - group[0]) / samples, memory)
    for i in range(group[0], group[1]):
        mean = spread(means[i])
        for at in range(i * S, last, step):
            deviation = load(memory, a_prev + at, None) - mean
            store(memory, layer.A + at, deviation * deviation, None)
        if samples % S > 0:
            deviation = load(memory, a_prev + last + i * S, None) - mean
            store(memory, layer.A + last + i * S, where(counted, deviation * deviation, zero), None)
    _clear(sums)
    _add_rows(memory, layer.A, step, (samples + S - 1) // S, group, sums)
    for i in range(group[0], group[1]):
        variances[i] = as_of(_sum(sums, i - group[0]) / samples, memory)


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
    of_dA, of_products = view(doubles(), 0, 2 * TOGETHER), view(doubles(), 0, 2 * TOGETHER)
    for first in range(rows[0], rows[1], TOGETHER):
        group = first, min(rows[1], first + TOGETHER)
        for i in range(group[0], group[1]):
            for at in range(blocks[0] * step + i * S, blocks[1] * step, step):
                products = load(memory, d + at, None) * load(memory, layer.X_hat + at, None)
                store(memory, layer.A + at, products, None)
        _clear(of_dA)
        _clear(of_products)
        _add_rows(memory, d, step, blocks[1], group, of_dA)
        _add_rows(memory, layer.A, step, blocks[1], group, of_products)
        for i in range(group[0], group[1]):
            g[i], g[n + i] = _sum(of_products, i - first), _sum(of_dA, i - first)
        if d_prev == 0:
            continue
        # The running statistics do not depend on the sample, so nothing is subtracted from its derivative.
        part = 1.0 if samples > 1 else 0.0
        for i in range(group[0], group[1]):
            mean_of_dA = spread(as_of(part * (_sum(of_dA, i - first) / samples), memory))
            mean_of_products = spread(as_of(part * (_sum(of_products, i - first) / samples), memory))
            factor = spread(parameters[i] * moments[2 * n + i])
            for at in range(blocks[0] * step + i * S, blocks[1] * step, step):
                dA, X_hat = load(memory, d + at, None), load(memory, layer.X_hat + at, None)
                store(memory, d_prev + at, factor * (dA - mean_of_dA - X_hat * mean_of_products), None)
            if samples < blocks[1] * S:
                last = d_prev + (blocks[1] - 1) * step + i * S
                counted = first_lanes(samples % S, factor)
                store(memory, last, load(memory, last, counted), None)


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


@inline_source
def _clear(sums):
    for r in range(2 * TOGETHER):
        sums[r] = 0.0


@inline_source
def _sum(sums, r):
    return sums[r] + sums[TOGETHER + r]


@jit
def _add_rows(x, at, step, blocks, group, sums):
    """Add a group of rows of some blocks to `sums`: their sums, followed by the rounding errors of these.

    The error does not grow with the number of runs of samples.
    """
    S, count = block(x), group[1] - group[0]
    run, part = RUN // S, scratch(x)
    of_run = view(part, 0, count)
    for first in range(0, blocks, run):
        start, repeats = at + first * step + group[0] * S, min(run, blocks - first)
        if count == TOGETHER:
            sums8(x, start, step, repeats, part, INT_ZERO)
        else:
            for r in range(count):
                sums1(x, start + r * S, step, repeats, part, r)
        for r in range(count):
            sums[r], sums[TOGETHER + r] = add(sums[r], sums[TOGETHER + r], of_run[r])
