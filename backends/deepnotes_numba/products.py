"""The three matrix products of a dense layer (N2, N13, N15), tile by tile, over blocks of samples.

A region of a workspace holds an array (n, m) as blocks of S samples, each an (n, S) matrix with `padded(n)` rows
of room. A region of transposed inputs, for N13, holds panels of S features, each a (samples, S) matrix. A tile of a
product is a few rows of one block; whichever thread computes it adds the same numbers in the same order.
"""

import numpy as np

from deepnotes_numba.compiling import jit
from deepnotes_numba.elementary import ZERO
from deepnotes_numba.vectors import (
    ROWS,
    block,
    narrow1,
    narrow2,
    narrow4,
    narrow_full,
    scratch,
    sums1,
    sums8,
    tile1,
    tile2,
    tile4,
    tile_full,
    view,
)

TERMS = 512
"""The terms of a sum that are added at a time, so that the inputs of some blocks stay in a core's cache."""
ONCE, NOTHING = np.int64(1), np.int64(0)
"""Variables, since literals 1 or 0 would make Numba compile a separate function for them."""
RUN = 512
"""Samples whose products are summed in registers, one after the other; longer sums consist of several runs."""
GROUP = 8 * ROWS
"""Rows of a weight gradient that are computed together, for the same reason."""


@jit
def padded(n, like):
    """Return the rows of room for n rows, rounded up so that whole squares can be transposed."""
    S = block(like)
    return (n + S - 1) // S * S


@jit
def share(n, part):
    """Return the first of n rows, and the one after the last, of thread number `part[0]` of `part[1]`: whole tiles."""
    rank, size = part
    if size == 1:
        return 0, n
    tiles = (n + ROWS - 1) // ROWS
    return min(n, tiles * rank // size * ROWS), min(n, tiles * (rank + 1) // size * ROWS)


@jit
def _tile(rows, W, weights, A, a, out, place, total):
    """Compute the largest tile that fits the remaining rows, and return its number of rows.

    `weights` are the place of the first weight and the strides w_row, w_column and w_next; `place` is that of the first
    result, the stride o_row, and the columns; `total` are terms, times, start and the place of the first bias.
    """
    w, w_row, w_column, w_next = weights
    o, o_row, columns = place
    terms, times, start, b = total
    if 2 * columns <= block(W):
        if rows >= ROWS:
            narrow_full(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
            return ROWS
        if rows >= 4:
            narrow4(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
            return 4
        if rows >= 2:
            narrow2(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
            return 2
        narrow1(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
        return 1
    if rows >= ROWS:
        tile_full(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
        return ROWS
    if rows >= 4:
        tile4(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
        return 4
    if rows >= 2:
        tile2(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
        return 2
    tile1(W, w, w_row, w_column, w_next, A, a, out, o, o_row, columns, terms, times, start, b)
    return 1


@jit
def linear(theta, w, b, n, n_prev, work, A_prev, Z, blocks, rows):
    """Write ``Z = W A_prev + b`` (N2) for a range of blocks and a range of rows."""
    S = block(work)
    step, step_prev = padded(n, work) * S, padded(n_prev, work) * S
    for p in range(0, n_prev, TERMS):
        total = min(TERMS, n_prev - p), ONCE, 1 if p else 2
        i = rows[0]
        while i < rows[1]:
            done = 1
            weights = w + i * n_prev + p, n_prev, ONCE, NOTHING
            for at in range(blocks[0], blocks[1]):
                place = Z + at * step + i * S, S, S
                A = A_prev + at * step_prev + p * S
                done = _tile(rows[1] - i, theta, weights, work, A, work, place, (*total, b + i))
            i += done


@jit
def input_gradient(theta, w, n, n_prev, work, D, D_prev, blocks, rows):
    """Write ``dA_prev = Wᵀ dZ`` (N15) for a range of blocks and a range of rows, which are those of dA_prev."""
    S = block(work)
    step, step_prev = padded(n, work) * S, padded(n_prev, work) * S
    for p in range(0, n, TERMS):
        total = min(TERMS, n - p), ONCE, 1 if p else 0, NOTHING
        i = rows[0]
        while i < rows[1]:
            done = 1
            weights = w + p * n_prev + i, ONCE, n_prev, NOTHING
            for at in range(blocks[0], blocks[1]):
                place = D_prev + at * step_prev + i * S, S, S
                done = _tile(rows[1] - i, theta, weights, work, D + at * step + p * S, work, place, total)
            i += done


@jit
def weight_gradient(g, lost, w, n, n_prev, work, D, turned, blocks, room, rows, add):
    """Write ``dW = dZ A_prevᵀ`` (N13; the 1/m is in dZ) for a range of rows, or add it to what is there.

    The inputs are transposed, in panels with room for `room` blocks. See :func:`add_run` for `lost`.
    """
    S = block(work)
    step = padded(n, work) * S
    for p in range(0, n_prev, S):
        columns = min(S, n_prev - p)
        i = rows[0]
        while i < rows[1]:
            at = w + i * n_prev + p
            weights, A = (D + i * S, S, ONCE, step), turned + p * room * S
            if add or blocks * S > RUN:
                i += _in_runs(rows[1] - i, work, weights, A, g, lost, (at, n_prev, columns), blocks, add)
            else:
                i += _tile(rows[1] - i, work, weights, work, A, g, (at, n_prev, columns), (S, blocks, NOTHING, NOTHING))


@jit
def _in_runs(rows, work, weights, A, g, lost, place, blocks, add):
    """Write a tile of a weight gradient, or add it, run by run; return its number of rows."""
    S = block(work)
    run = RUN // S
    start, pitch, once, step = weights
    at, n_prev, columns = place
    done = 0
    for first in range(0, blocks, run):
        now, total = (start + first * step, pitch, once, step), (S, min(run, blocks - first), NOTHING, NOTHING)
        if first == 0 and not add:
            done = _tile(rows, work, now, work, A, g, place, total)
            continue
        part = scratch(work)
        done = _tile(rows, work, now, work, A + first * S * S, part, (NOTHING, S, columns), total)
        for r in range(done):
            add_run(g, lost, at + r * n_prev, part, r * S, columns)
    return done


@jit
def bias_gradient(g, lost, b, n, work, D, blocks, rows, add):
    """Write ``db = Σ dZ`` (N14; the 1/m is in dZ) for a range of rows, or add it to what is there."""
    S = block(work)
    step = padded(n, work) * S
    run = blocks if blocks * S <= RUN else RUN // S
    i = rows[0]
    while i < rows[1]:
        count = 8 if i + 8 <= rows[1] else 1
        for first in range(0, blocks, run):
            direct = first == 0 and not add
            out, o = (g, b + i) if direct else (scratch(work), NOTHING)
            x, times = D + first * step + i * S, min(run, blocks - first)
            if count == 8:
                sums8(work, x, step, times, out, o)
            else:
                sums1(work, x, step, times, out, o)
            if not direct:
                add_run(g, lost, b + i, out, o, count)
        i += count


@jit
def add_run(g, lost, at, part, o, count):
    """Add the contribution of one run of samples to g; `lost` accumulates the rounding errors of the additions.

    So the error of a sum is that of one run, whatever the number of runs (the two-sum of D. E. Knuth, The Art of
    Computer Programming 2, 4.2.2; T. Ogita, S. M. Rump and S. Oishi, SIAM J. Sci. Comput. 26 (2005) 1955).
    """
    sums, rest, more = view(g, at, count), view(lost, at, count), view(part, o, count)
    for c in range(count):
        a, b = sums[c], more[c]
        total = a + b
        of_b = total - a
        off = (a - (total - of_b)) + (b - of_b)
        rest[c] += off if off == off else ZERO(off)  # infinity stays what it is
        sums[c] = total
