"""The three matrix products of a dense layer (N2, N13, N15), computed tile by tile on blocks of samples.

A region of a workspace holds an array of shape (n, m) as blocks of S samples, each an (n, S) matrix with memory for
`padded(n)` rows. A region for transposed inputs, needed for N13, holds panels of S features, each a (samples, S)
matrix. A tile of a product is a few rows of one block. The terms of a sum are added in the same order, whichever thread
computes the tile.
"""

import numpy as np

from deepnotes_numba.arguments import Factor, Sum, Tile
from deepnotes_numba.compiling import inline_source, jit
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
"""The number of terms of a sum that are added in one go, so that the inputs of some blocks stay in a core's cache."""
EVEN = 8 if ROWS == 6 else 0
"""The number of remaining rows that are better computed as 4 and 4 than as a full tile and 2.

Two rows have too few sums for the processor to begin one multiplication after the other without waiting for a result.
"""
INT_ONE, INT_ZERO = np.int64(1), np.int64(0)
"""Variables, because Numba compiles separate functions for the literals 1 and 0."""
RUN = 512
"""The number of samples in a run; the products of one run are summed in registers, one after the other."""
GROUP = 8 * ROWS
"""The number of rows of a weight gradient that are computed together, so that their inputs stay in a core's cache."""


@jit
def padded(n, like):
    """Return n rounded up to a multiple of S, since a region has memory for whole squares, which can be transposed."""
    S = block(like)
    return (n + S - 1) // S * S


@jit
def share(n, rank, size):
    """Return the start and the stop of the range of rows, among n rows, that a thread computes; it has whole tiles.

    `rank` is the number of the thread, and `size` the number of threads.
    """
    if size == 1:
        return 0, n
    tiles = (n + ROWS - 1) // ROWS
    return min(n, tiles * rank // size * ROWS), min(n, tiles * (rank + 1) // size * ROWS)


@jit
def _compute_tile(rows, W, factor, A, a, out, tile, extent):
    """Compute the tallest tile that fits into the remaining `rows`, and return its number of rows.

    The left factor is `W` with the layout `factor`; the right factor is at offset `a` in `A`; the results are written
    to `out` with the layout `tile`; `extent` is a :class:`Sum`.
    """
    if 2 * tile.columns <= block(W):
        return _compute_narrow_tile(rows, W, factor, A, a, out, tile, extent)
    return _compute_wide_tile(rows, W, factor, A, a, out, tile, extent)


@inline_source
def _compute_narrow_tile(rows, W, factor, A, a, out, tile, extent):
    """Compute a tile that is one register wide."""
    if rows >= ROWS:
        narrow_full(W, factor, A, a, out, tile, extent)
        return ROWS
    if rows >= 4:
        narrow4(W, factor, A, a, out, tile, extent)
        return 4
    if rows >= 2:
        narrow2(W, factor, A, a, out, tile, extent)
        return 2
    narrow1(W, factor, A, a, out, tile, extent)
    return 1


@inline_source
def _compute_wide_tile(rows, W, factor, A, a, out, tile, extent):
    """Compute a tile that is two registers wide."""
    if rows >= ROWS and rows != EVEN:
        tile_full(W, factor, A, a, out, tile, extent)
        return ROWS
    if rows >= 4:
        tile4(W, factor, A, a, out, tile, extent)
        return 4
    if rows >= 2:
        tile2(W, factor, A, a, out, tile, extent)
        return 2
    tile1(W, factor, A, a, out, tile, extent)
    return 1


@jit
def linear(theta, layer, memory, A_prev, Z, blocks, rows):
    """Write ``Z = W A_prev + b`` (N2) for a range of blocks and a range of rows."""
    S = block(memory)
    n_prev = layer.n_prev
    step, step_prev = padded(layer.n, memory) * S, padded(n_prev, memory) * S
    for p in range(0, n_prev, TERMS):
        terms, start = min(TERMS, n_prev - p), 1 if p else 2
        i = rows[0]
        while i < rows[1]:
            height = 1
            factor = Factor(layer.w + i * n_prev + p, n_prev, INT_ONE, INT_ZERO)
            extent = Sum(terms, INT_ONE, start, layer.b + i)
            for at in range(blocks[0], blocks[1]):
                tile = Tile(Z + at * step + i * S, S, S)
                A = A_prev + at * step_prev + p * S
                height = _compute_tile(rows[1] - i, theta, factor, memory, A, memory, tile, extent)
            i += height


@jit
def input_gradient(theta, layer, memory, D, D_prev, blocks, rows):
    """Write ``dA_prev = Wᵀ dZ`` (N15) for a range of blocks and a range of the rows of dA_prev."""
    S = block(memory)
    n, n_prev = layer.n, layer.n_prev
    step, step_prev = padded(n, memory) * S, padded(n_prev, memory) * S
    for p in range(0, n, TERMS):
        extent = Sum(min(TERMS, n - p), INT_ONE, 1 if p else 0, INT_ZERO)
        i = rows[0]
        while i < rows[1]:
            height = 1
            factor = Factor(layer.w + p * n_prev + i, INT_ONE, n_prev, INT_ZERO)
            for at in range(blocks[0], blocks[1]):
                tile = Tile(D_prev + at * step_prev + i * S, S, S)
                height = _compute_tile(rows[1] - i, theta, factor, memory, D + at * step + p * S, memory, tile, extent)
            i += height


@jit
def weight_gradient(buffers, layer, work, D, panels, blocks, rows, add):
    """Write ``dW = dZ A_prevᵀ`` (N13) for a range of rows or, if `add` is true, add it to the gradient so far.

    dZ includes the factor 1/m. `panels` is the offset of the transposed inputs, and `blocks` the number of blocks.
    """
    memory, n_prev = work.memory, layer.n_prev
    S = block(memory)
    step = padded(layer.n, memory) * S
    for p in range(0, n_prev, S):
        i = rows[0]
        while i < rows[1]:
            tile = Tile(layer.w + i * n_prev + p, n_prev, min(S, n_prev - p))
            factor, A = Factor(D + i * S, S, INT_ONE, step), panels + p * work.capacity * S
            if add or blocks * S > RUN:
                i += _compute_in_runs(rows[1] - i, memory, factor, A, buffers, tile, blocks, add)
            else:
                extent = Sum(S, blocks, INT_ZERO, INT_ZERO)
                i += _compute_tile(rows[1] - i, memory, factor, memory, A, buffers.gradient, tile, extent)


@jit
def _compute_in_runs(rows, memory, factor, A, buffers, tile, blocks, add):
    """Compute a tile of a weight gradient run by run, writing or adding it; return the tile's number of rows."""
    S = block(memory)
    run = RUN // S
    height = 0
    for first in range(0, blocks, run):
        left = Factor(factor.start + first * factor.repeat, factor.row, factor.column, factor.repeat)
        extent = Sum(S, min(run, blocks - first), INT_ZERO, INT_ZERO)
        if first == 0 and not add:
            height = _compute_tile(rows, memory, left, memory, A, buffers.gradient, tile, extent)
            continue
        part = scratch(memory)
        columns = Tile(INT_ZERO, S, tile.columns)
        height = _compute_tile(rows, memory, left, memory, A + first * S * S, part, columns, extent)
        for r in range(height):
            add_run(buffers, tile.start + r * tile.row, part, r * S, tile.columns)
    return height


@jit
def bias_gradient(buffers, layer, memory, D, blocks, rows, add):
    """Write ``db = Σ dZ`` (N14) for a range of rows or, if `add` is true, add it; dZ includes the factor 1/m."""
    S = block(memory)
    step = padded(layer.n, memory) * S
    run = blocks if blocks * S <= RUN else RUN // S
    i = rows[0]
    while i < rows[1]:
        count = 8 if i + 8 <= rows[1] else 1
        for first in range(0, blocks, run):
            overwrite = first == 0 and not add
            out, o = (buffers.gradient, layer.b + i) if overwrite else (scratch(memory), INT_ZERO)
            x, repeats = D + first * step + i * S, min(run, blocks - first)
            if count == 8:
                sums8(memory, x, step, repeats, out, o)
            else:
                sums1(memory, x, step, repeats, out, o)
            if not overwrite:
                add_run(buffers, layer.b + i, out, o, count)
        i += count


@jit
def add_run(buffers, at, part, o, count):
    """Add the contribution of one run of samples to the gradient, and the rounding errors to `buffers.errors`.

    So the error of a sum does not grow with the number of runs (the two-sum of D. E. Knuth, The Art of Computer
    Programming 2, 4.2.2; T. Ogita, S. M. Rump and S. Oishi, SIAM J. Sci. Comput. 26 (2005) 1955).
    """
    sums, errors = view(buffers.gradient, at, count), view(buffers.errors, at, count)
    terms = view(part, o, count)
    for c in range(count):
        a, b = sums[c], terms[c]
        total = a + b
        of_b = total - a
        error = (a - (total - of_b)) + (b - of_b)
        errors[c] += error if error == error else ZERO(error)  # the error of an infinite sum is NaN
        sums[c] = total
