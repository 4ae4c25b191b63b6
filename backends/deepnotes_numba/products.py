"""Matrix products for the shapes of a dense layer: a BLAS for large ones, loops along the samples for small ones.

A call of a BLAS costs more than the arithmetic of a layer of a dozen neurons. The loops take two rows and four terms
at a time, so that six values read or written serve eight multiplications.
"""

import numpy as np

from deepnotes_numba.compiling import jit

SMALL = 30_000
"""Multiplications up to which the loops are as fast as a BLAS or faster."""


@jit
def product(W, A, out):
    """Write ``W A`` to out (N2): (n, k) by (k, m) to (n, m)."""
    n, k = W.shape
    m = A.shape[1]
    if n * k * m > SMALL:
        np.dot(W, A, out)
        return
    out[:] = 0
    i = 0
    while i + 2 <= n:
        p = 0
        while p + 4 <= k:
            v0, v1, v2, v3 = W[i, p], W[i, p + 1], W[i, p + 2], W[i, p + 3]
            w0, w1, w2, w3 = W[i + 1, p], W[i + 1, p + 1], W[i + 1, p + 2], W[i + 1, p + 3]
            for s in range(m):
                a0, a1, a2, a3 = A[p, s], A[p + 1, s], A[p + 2, s], A[p + 3, s]
                out[i, s] += v0 * a0 + v1 * a1 + v2 * a2 + v3 * a3
                out[i + 1, s] += w0 * a0 + w1 * a1 + w2 * a2 + w3 * a3
            p += 4
        while p < k:
            v, w = W[i, p], W[i + 1, p]
            for s in range(m):
                out[i, s] += v * A[p, s]
                out[i + 1, s] += w * A[p, s]
            p += 1
        i += 2
    if i < n:
        for p in range(k):
            w = W[i, p]
            for s in range(m):
                out[i, s] += w * A[p, s]


@jit
def product_transposed_left(W, D, out):
    """Write ``Wᵀ D`` to out (N15): (n, k) and (n, m) to (k, m)."""
    n, k = W.shape
    m = D.shape[1]
    if n * k * m > SMALL:
        np.dot(W.T, D, out)
        return
    out[:] = 0
    p = 0
    while p + 2 <= k:
        i = 0
        while i + 4 <= n:
            v0, v1, v2, v3 = W[i, p], W[i + 1, p], W[i + 2, p], W[i + 3, p]
            w0, w1, w2, w3 = W[i, p + 1], W[i + 1, p + 1], W[i + 2, p + 1], W[i + 3, p + 1]
            for s in range(m):
                d0, d1, d2, d3 = D[i, s], D[i + 1, s], D[i + 2, s], D[i + 3, s]
                out[p, s] += v0 * d0 + v1 * d1 + v2 * d2 + v3 * d3
                out[p + 1, s] += w0 * d0 + w1 * d1 + w2 * d2 + w3 * d3
            i += 4
        while i < n:
            v, w = W[i, p], W[i, p + 1]
            for s in range(m):
                out[p, s] += v * D[i, s]
                out[p + 1, s] += w * D[i, s]
            i += 1
        p += 2
    if p < k:
        for i in range(n):
            w = W[i, p]
            for s in range(m):
                out[p, s] += w * D[i, s]


@jit
def product_transposed_right(D, A, out):
    """Write ``D Aᵀ`` to out (N13): (n, m) and (k, m) to (n, k)."""
    n, m = D.shape
    k = A.shape[0]
    if n * k * m > SMALL:
        np.dot(D, A.T, out)
        return
    zero = D.dtype.type(0)
    i = 0
    while i + 2 <= n:
        p = 0
        while p + 4 <= k:
            t0, t1, t2, t3 = zero, zero, zero, zero
            u0, u1, u2, u3 = zero, zero, zero, zero
            for s in range(m):
                x, y = D[i, s], D[i + 1, s]
                a0, a1, a2, a3 = A[p, s], A[p + 1, s], A[p + 2, s], A[p + 3, s]
                t0 += x * a0
                t1 += x * a1
                t2 += x * a2
                t3 += x * a3
                u0 += y * a0
                u1 += y * a1
                u2 += y * a2
                u3 += y * a3
            out[i, p], out[i, p + 1], out[i, p + 2], out[i, p + 3] = t0, t1, t2, t3
            out[i + 1, p], out[i + 1, p + 1], out[i + 1, p + 2], out[i + 1, p + 3] = u0, u1, u2, u3
            p += 4
        while p < k:
            t, u = zero, zero
            for s in range(m):
                t += D[i, s] * A[p, s]
                u += D[i + 1, s] * A[p, s]
            out[i, p], out[i + 1, p] = t, u
            p += 1
        i += 2
    if i < n:
        for p in range(k):
            t = zero
            for s in range(m):
                t += D[i, s] * A[p, s]
            out[i, p] = t
