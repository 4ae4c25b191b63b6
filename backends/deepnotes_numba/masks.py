"""Dropout's masks: Philox-4x32-10, the same words as :func:`deepnotes.equations.philox`."""

import numpy as np

from deepnotes_numba.compiling import jit


@jit
def philox(c0, c1, c2, c3, seed):
    """Return the four words for one counter."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    x0, x1, x2, x3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    key0, key1 = np.uint64(seed) & low, np.uint64(seed) >> half
    for _ in range(10):
        p0 = x0 * np.uint64(0xD2511F53)
        p2 = x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (p2 >> half) ^ x1 ^ key0, p2 & low, (p0 >> half) ^ x3 ^ key1, p0 & low
        key0 = (key0 + np.uint64(0x9E3779B9)) & low
        key1 = (key1 + np.uint64(0xBB67AE85)) & low
    return x0, x1, x2, x3


@jit
def dropout(A_prev, rate, seed, step, layer, A, mask):
    """Write ``A_prev`` without what is dropped to A, and the factors, 0 or ``1 / (1 - rate)``, to mask; all (n, m)."""
    n, m = A.shape
    keep = A.dtype.type(1 / (1 - rate))
    zero = A.dtype.type(0)
    threshold = np.uint64(round(rate * 4294967296.0))
    block = np.int64(-1)
    words = (np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0))
    for s in range(m):
        for i in range(n):
            element = s * n + i
            if element >> 2 != block:
                block = element >> 2
                words = philox(block, layer, step & 0xFFFFFFFF, step >> 32, seed)
            place = element & 3
            word = words[0] if place == 0 else words[1] if place == 1 else words[2] if place == 2 else words[3]
            factor = keep if word >= threshold else zero
            mask[i, s] = factor
            A[i, s] = A_prev[i, s] * factor
