"""From data to blocks: the samples of a batch, their targets and weights.

If the last block of a batch is not full, it repeats the last sample with the weight 0.
"""

from deepnotes_numba.compiling import jit
from deepnotes_numba.products import padded
from deepnotes_numba.vectors import block, matrix, prefetch, transpose, view

AHEAD = 12
"""The samples by which rows of X are prefetched ahead: in a shuffled order the processor cannot predict them."""
BEGINNING = 64
"""The elements of a row that are prefetched: after these, the processor's own prefetcher takes over."""
CACHE = 1 << 20
"""The bytes of X up to which nothing is prefetched, since X is in the cache."""
LINE = 64
"""The bytes of a cache line."""


@jit
def gather(X, by_sample, indices, m, work, A, turned, blocks, room, training):
    """Write the columns of X at the first m of `indices`, for a range of blocks, to the region A and to `turned`.

    X is (n, samples), or (samples, n) if `by_sample`; the samples at the other indices may be needed soon. `turned`
    holds the transposed samples; unless `training`, it is not filled completely.
    """
    S = block(work)
    n = X.shape[1] if by_sample else X.shape[0]
    step = padded(n, work) * S
    last, end = m - 1, indices.shape[0] - 1
    asked, line = min(n, BEGINNING) if X.size * X.itemsize > CACHE else 0, LINE // X.itemsize
    for at in range(blocks[0], blocks[1]):
        if by_sample:
            for s in range(S):
                x = X[indices[min(at * S + s, last)]]
                if asked > 0:
                    soon = indices[min(at * S + s + AHEAD, end)] * n
                    for p in range(0, asked, line):
                        prefetch(X, soon + p)
                for p in range(0, n, S):
                    columns = min(S, n - p)
                    row, out = x[p : p + columns], view(work, turned + (p * room + at * S + s) * S, columns)
                    for c in range(columns):
                        out[c] = row[c]
            for p in range(0, n, S):
                square = turned + (p * room + at * S) * S
                transpose(work, square, work, A + at * step + p * S, S, min(S, n - p))
            continue
        chosen = view(indices, at * S, min(S, last + 1 - at * S))
        out = matrix(work, A + at * step, n, S)
        for i in range(n):
            x = X[i]
            for s in range(chosen.shape[0]):
                out[i, s] = x[chosen[s]]
            for s in range(chosen.shape[0], S):
                out[i, s] = x[indices[last]]
        if training:
            turn(work, A, n, turned, (at, at + 1), room, (0, 1))


@jit
def turn(work, A, n, turned, blocks, room, part):
    """Transpose a range of blocks of the region A, n rows, to the panels of `turned`; each thread takes its panels."""
    S = block(work)
    step = padded(n, work) * S
    for at in range(blocks[0], blocks[1]):
        for p in range(part[0] * S, n, part[1] * S):
            transpose(work, A + at * step + p * S, work, turned + (p * room + at * S) * S, min(S, n - p), S)


@jit
def gather_targets(Y, w, weighted, total, indices, m, work, targets, rows, blocks):
    """Write the targets at the first m of `indices`, and the share of each in a mean: its weight divided by `total`.

    For a range of blocks; a block of `rows` begins with the row of what the samples count for.
    """
    S = block(work)
    k = Y.shape[0]
    last = m - 1
    share = 1 / total if total > 0 else 0.0
    for at in range(blocks[0], blocks[1]):
        y, c = matrix(work, targets + at * k * S, k, S), view(work, rows + at * 4 * S, S)
        for s in range(S):
            index = indices[min(at * S + s, last)]
            for i in range(k):
                y[i, s] = Y[i, index]
            c[s] = share if at * S + s <= last else 0.0
            if weighted:
                c[s] *= w[0, index]


@jit
def total_of(w, by_weight, indices):
    """Return the divisor of the losses of a batch: its number of samples, or the sum of their weights."""
    if not by_weight:
        return float(indices.shape[0])
    total = rest = 0.0
    for s in range(indices.shape[0]):
        total, rest = plus(total, rest, w[0, indices[s]])
    return total + rest


@jit
def plus(total, rest, x):
    """Return a sum with x added, and the accumulated rounding error of all additions (Knuth's two-sum)."""
    new = total + x
    of_x = new - total
    off = (total - (new - of_x)) + (x - of_x)
    return new, rest + off if off == off else rest  # infinity stays what it is
