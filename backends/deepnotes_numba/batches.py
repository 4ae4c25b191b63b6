"""Functions that gather the samples of a batch, their targets and their weights into blocks.

If the last block of a batch is not full, it repeats the last sample with the weight 0.
"""

from deepnotes_numba.compiling import inline_source, jit
from deepnotes_numba.products import padded
from deepnotes_numba.vectors import block, matrix, prefetch, transpose, view

AHEAD = 12
"""Rows of X are prefetched this many samples ahead, because the processor cannot predict a shuffled order."""
PREFETCHED = 64
"""The number of elements of a row that are prefetched; the processor prefetches the rest by itself."""
CACHE_BYTES = 1 << 20
"""The largest size of X for which nothing is prefetched, since X then stays in the cache."""
LINE_BYTES = 64
"""The number of bytes in a cache line."""


@jit
def gather(samples, m, work, A, panels, blocks, training):
    """Gather the first m samples into a range of blocks: at offset A, and transposed at offset `panels`.

    Samples that come later in the order may be prefetched. The panels are filled completely only if `training`.
    """
    if samples.by_sample:
        _gather_rows(samples, m, work, A, panels, blocks)
    else:
        _gather_columns(samples, m, work, A, panels, blocks, training)


@inline_source
def _gather_rows(samples, m, work, A, panels, blocks):
    """Copy samples that are rows of X to the panels, and transpose the panels to the blocks."""
    X, indices, memory = samples.X, samples.order, work.memory
    S = block(memory)
    n = X.shape[1]
    step = padded(n, memory) * S
    last, end = m - 1, indices.shape[0] - 1
    prefetched, line = min(n, PREFETCHED) if X.size * X.itemsize > CACHE_BYTES else 0, LINE_BYTES // X.itemsize
    for at in range(blocks[0], blocks[1]):
        for s in range(S):
            x = X[indices[min(at * S + s, last)]]
            if prefetched > 0:
                later = indices[min(at * S + s + AHEAD, end)] * n
                for p in range(0, prefetched, line):
                    prefetch(X, later + p)
            for p in range(0, n, S):
                columns = min(S, n - p)
                row, out = x[p : p + columns], view(memory, panels + (p * work.capacity + at * S + s) * S, columns)
                for c in range(columns):
                    out[c] = row[c]
        for p in range(0, n, S):
            square = panels + (p * work.capacity + at * S) * S
            transpose(memory, square, memory, A + at * step + p * S, S, min(S, n - p))


@inline_source
def _gather_columns(samples, m, work, A, panels, blocks, training):
    """Copy samples that are columns of X to the blocks; if `training`, transpose the blocks to the panels."""
    X, indices, memory = samples.X, samples.order, work.memory
    S = block(memory)
    n = X.shape[0]
    step = padded(n, memory) * S
    last = m - 1
    for at in range(blocks[0], blocks[1]):
        block_indices = view(indices, at * S, min(S, last + 1 - at * S))
        out = matrix(memory, A + at * step, n, S)
        for i in range(n):
            x = X[i]
            for s in range(block_indices.shape[0]):
                out[i, s] = x[block_indices[s]]
            for s in range(block_indices.shape[0], S):
                out[i, s] = x[indices[last]]
        if training:
            transpose_blocks(work, A, n, panels, (at, at + 1), 0, 1)


@jit
def transpose_blocks(work, A, n, panels, blocks, rank, size):
    """Transpose a range of blocks with n rows each, in the region at offset A, to `panels`.

    Thread `rank` of `size` threads fills every `size`-th panel.
    """
    memory = work.memory
    S = block(memory)
    step = padded(n, memory) * S
    for at in range(blocks[0], blocks[1]):
        for p in range(rank * S, n, size * S):
            square = panels + (p * work.capacity + at * S) * S
            transpose(memory, A + at * step + p * S, memory, square, min(S, n - p), S)


@jit
def gather_targets(targets, total, indices, m, memory, Y_at, rows_at, blocks):
    """Write the targets of the first m samples in `indices`, and their shares of the mean, for a range of blocks.

    The targets are written to the region at offset `Y_at`. The share of a sample is its weight divided by `total`. Each
    block has two rows in the region at offset `rows_at`; the shares are written to the first row.
    """
    Y = targets.Y
    S = block(memory)
    k = Y.shape[0]
    last = m - 1
    share = 1 / total if total > 0 else 0.0
    for at in range(blocks[0], blocks[1]):
        out, shares = matrix(memory, Y_at + at * k * S, k, S), view(memory, rows_at + at * 2 * S, S)
        for s in range(S):
            index = indices[min(at * S + s, last)]
            for i in range(k):
                out[i, s] = Y[i, index]
            shares[s] = share if at * S + s <= last else 0.0
            if targets.weighted:
                shares[s] *= targets.weights[0, index]


@jit
def divisor(weights, by_weight, indices):
    """Return the divisor of a batch's losses: its number of samples or, if `by_weight`, the sum of their weights."""
    if not by_weight:
        return float(indices.shape[0])
    total = rest = 0.0
    for s in range(indices.shape[0]):
        total, rest = add(total, rest, weights[0, indices[s]])
    return total + rest


@jit
def add(total, rest, x):
    """Return the sum `total` with x added, and `rest`, the accumulated rounding errors of all additions (two-sum)."""
    new = total + x
    of_x = new - total
    error = (total - (new - of_x)) + (x - of_x)
    return new, rest + error if error == error else rest  # the error of an infinite sum is NaN
