"""Compiled functions on whole arrays, for eager execution."""

import numpy as np

from deepnotes_numba import activations, updates
from deepnotes_numba.arguments import Buffers, Update
from deepnotes_numba.compiling import entry, inline_code
from deepnotes_numba.elementary import ZERO, exp
from deepnotes_numba.masks import philox


@entry("single activations")
def activate(code, option, Z, A):
    activations.activate(code, option, Z, A)


@entry("single activations")
def backward(code, option, D, Z, A):
    activations.backward(code, option, D, Z, A)


@inline_code
def _exponentials(Z, A, largest, total):
    """Write ``e^(z - largest)`` for each column of Z to A, the maxima to `largest`, and the sums to `total`."""
    n, m = Z.shape
    for j in range(m):
        largest[j], total[j] = Z[0, j], ZERO(Z[0, j])
    for i in range(1, n):
        for j in range(m):
            z = Z[i, j]
            largest[j] = z if z > largest[j] or z != z else largest[j]
    for i in range(n):
        for j in range(m):
            A[i, j] = exp(Z[i, j] - largest[j])
            total[j] += A[i, j]


@entry("single activations")
def softmax(Z, A, largest, total):
    _exponentials(Z, A, largest, total)
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            A[i, j] /= total[j]


@entry("single activations")
def softmax_backward(D, A, total):
    for j in range(D.shape[1]):
        total[j] = 0
    for i in range(D.shape[0]):
        for j in range(D.shape[1]):
            total[j] += D[i, j] * A[i, j]
    for i in range(D.shape[0]):
        for j in range(D.shape[1]):
            D[i, j] = A[i, j] * (D[i, j] - total[j])


@entry("single updates")
def update(code, theta, g, first, second, scalars):
    """Update θ and the optimizer's slots; `scalars` are the rate, epsilon, beta1 and beta2."""
    rate, epsilon, beta1, beta2 = scalars
    step = Update(code, 1.0, rate, epsilon, beta1, beta2)
    updates.update(step, Buffers(theta, g, g, first, second, False), 0, theta.shape[0])


@entry("dropout masks")
def mask(mask, rate, seed, step, layer):
    """Write whether dropout keeps each element, sample by sample; a row of `mask` is for the words of one counter."""
    threshold = np.uint64(round(rate * 4294967296.0))
    low, high = np.uint64(step) & np.uint64(0xFFFFFFFF), np.uint64(step) >> np.uint64(32)
    for b in range(mask.shape[0]):
        w0, w1, w2, w3 = philox(b, layer, low, high, seed)
        mask[b, 0] = w0 >= threshold
        mask[b, 1] = w1 >= threshold
        mask[b, 2] = w2 >= threshold
        mask[b, 3] = w3 >= threshold
