"""Dropout masks and noise, from the same random words as :func:`deepnotes.equations.philox`: Philox-4x32-10."""

from math import sqrt

import numpy as np

from deepnotes_numba.compiling import entry, inline_code, jit
from deepnotes_numba.elementary import ZERO
from deepnotes_numba.vectors import as_of, block, matrix

LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
SHORT, QUARTER, MEAN = np.uint64(0xFFFF), np.uint64(16), np.int64(4 * 65535)
INVERSE_DEVIATION = 1 / sqrt(8 * (65536**2 - 1) / 12)
"""What the sums of the eight halves of four words are multiplied by, after their MEAN is subtracted."""
FIRST, SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
FIRST_KEY, SECOND_KEY = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@inline_code
def philox(c0, c1, c2, c3, seed):
    """Return the four random words for one counter of four words and a seed, each as a 64-bit integer."""
    x0, x1, x2, x3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    key0, key1 = np.uint64(seed) & LOW, np.uint64(seed) >> HALF
    for _ in range(10):
        p0, p2 = x0 * FIRST, x2 * SECOND
        x0, x1, x2, x3 = (p2 >> HALF) ^ x1 ^ key0, p2 & LOW, (p0 >> HALF) ^ x3 ^ key1, p0 & LOW
        key0, key1 = (key0 + FIRST_KEY) & LOW, (key1 + SECOND_KEY) & LOW
    return x0, x1, x2, x3


@jit
def dropout(memory, a_prev, a, mask, n, rate, layer, counters):
    """Apply dropout to the block at offset `a_prev`, n rows; write the result to the block at offset `a`.

    The factors, 0 or ``1 / (1 - rate)``, are written to the block at offset `mask`. `layer` is the layer's number.
    """
    S = block(memory)
    A_prev, A, M = matrix(memory, a_prev, n, S), matrix(memory, a, n, S), matrix(memory, mask, n, S)
    keep, drop = as_of(1 / (1 - rate), memory), ZERO(as_of(0, memory))
    threshold = np.uint64(round(rate * 4294967296.0))
    low, high = np.uint64(counters.step) & LOW, np.uint64(counters.step) >> HALF
    first, seed = counters.first_sample, counters.seed
    if n % 4 == 0:  # the four words of a counter belong to four rows of one sample
        for i in range(0, n, 4):
            for s in range(S):
                w0, w1, w2, w3 = philox(((first + s) * n + i) >> 2, layer, low, high, seed)
                M[i, s] = keep if w0 >= threshold else drop
                M[i + 1, s] = keep if w1 >= threshold else drop
                M[i + 2, s] = keep if w2 >= threshold else drop
                M[i + 3, s] = keep if w3 >= threshold else drop
    else:
        for i in range(n):
            for s in range(S):
                element = (first + s) * n + i
                w0, w1, w2, w3 = philox(element >> 2, layer, low, high, seed)
                lane = element & 3
                word = w0 if lane == 0 else (w1 if lane == 1 else (w2 if lane == 2 else w3))
                M[i, s] = keep if word >= threshold else drop
    for i in range(n):
        for s in range(S):
            A[i, s] = A_prev[i, s] * M[i, s]


@jit
def add_noise(memory, a_prev, a, n, std, layer, counters):
    """Add the noise of :func:`deepnotes.equations.noise`, times `std`, to the block at offset `a_prev`.

    The result is written to the block at offset `a`; both have n rows. `layer` is the layer's number.
    """
    S = block(memory)
    A_prev, A = matrix(memory, a_prev, n, S), matrix(memory, a, n, S)
    low, high = np.uint64(counters.step) & LOW, np.uint64(counters.step) >> HALF
    scale = as_of(INVERSE_DEVIATION, memory)
    for i in range(n):
        for s in range(S):
            element = (counters.first_sample + s) * n + i
            w0, w1, w2, w3 = philox(element, layer, low, high, counters.seed)
            total = (w0 & SHORT) + (w1 & SHORT) + (w2 & SHORT) + (w3 & SHORT)
            total += (w0 >> QUARTER) + (w1 >> QUARTER) + (w2 >> QUARTER) + (w3 >> QUARTER)
            A[i, s] = A_prev[i, s] + std * (as_of(np.int64(total) - MEAN, memory) * scale)


@entry("dropout masks")
def write_mask(mask, rate, seed, step, layer):
    """Write whether dropout keeps each element, sample by sample; a row of `mask` is for the words of one counter."""
    threshold = np.uint64(round(rate * 4294967296.0))
    low, high = np.uint64(step) & LOW, np.uint64(step) >> HALF
    for b in range(mask.shape[0]):
        w0, w1, w2, w3 = philox(b, layer, low, high, seed)
        mask[b, 0] = w0 >= threshold
        mask[b, 1] = w1 >= threshold
        mask[b, 2] = w2 >= threshold
        mask[b, 3] = w3 >= threshold
