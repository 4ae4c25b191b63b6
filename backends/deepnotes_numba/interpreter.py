"""An interpreter of any plan of the library's own parts, compiled once for each dtype.

A network is a table of integers, one row for each layer, an option for each, and the places of further regions. All
arrays lie in one workspace, in regions of `room` blocks of S samples, see `products`. A thread computes a range of
blocks; or, if its `part` is not (0, 1), its part of the rows of each array, and waits for the others after each.
"""

import numpy as np

from deepnotes_numba.activations import NEEDS_Z, activate, backward, softmax, softmax_backward
from deepnotes_numba.barrier import wait
from deepnotes_numba.batches import turn
from deepnotes_numba.codes import IDENTITY, SIGMOID_FUSED, SOFTMAX
from deepnotes_numba.compiling import jit
from deepnotes_numba.losses import loss_and_delta
from deepnotes_numba.masks import dropout
from deepnotes_numba.products import GROUP, bias_gradient, input_gradient, linear, padded, share, weight_gradient
from deepnotes_numba.updates import squares_of
from deepnotes_numba.vectors import ROWS, block, view

DENSE, DROPOUT = 0, 1
KIND, INPUTS, OUTPUTS, W, B, ACTIVATION, NUMBER, Z, A, D, TURNED, TILES = range(12)
"""Columns of the table of layers. Z, A, D (dA, then dZ) and TURNED (the layer's inputs, transposed) are regions."""
X_AT, X_TURNED, TARGETS, EACH, END = range(5)
"""Further regions: X, X transposed, the targets, and four rows for each block."""
SHARES, LOSSES, LARGEST, SUMS = range(4)
"""These rows: the share of each sample, its loss, and two that softmax uses."""


@jit
def forward(net, theta, work, blocks, room, part, meeting, training, seed, step, first):
    """Run all layers over a range of blocks; return whether all threads took part."""
    layers, options, places = net
    rank, size = part
    S = block(work)
    unit = room * S
    before = places[X_AT] * unit
    for layer in range(layers.shape[0]):
        row = layers[layer]
        n_prev, n, z, a, code = row[INPUTS], row[OUTPUTS], row[Z] * unit, row[A] * unit, row[ACTIVATION]
        stride = padded(n, work) * S
        if row[KIND] == DROPOUT:
            if not training:
                continue
            for at in range(blocks[0] + rank, blocks[1], size):
                x = at * stride
                dropout(
                    work, before + x, a + x, z + x, n, options[layer], seed, step, row[NUMBER], first + at * S
                )  # fmt: skip
        else:
            if training and layer > 0:
                turn(work, before, n_prev, row[TURNED] * unit, blocks, room, part)
            rows = share(n, part)
            linear(theta, row[W], row[B], n, n_prev, work, before, z, blocks, rows)
            if code == SOFTMAX:
                if not wait(meeting, size):
                    return False
                for at in range(blocks[0] + rank, blocks[1], size):
                    each = places[EACH] * unit + at * 4 * S
                    softmax(work, z + at * stride, a + at * stride, n, each + LARGEST * S, each + SUMS * S)
            elif code != IDENTITY or z != a:
                count = (rows[1] - rows[0]) * S
                for at in range(blocks[0], blocks[1]):
                    x = at * stride + rows[0] * S
                    activate(code, options[layer], view(work, z + x, count), view(work, a + x, count), z == a)
        if not wait(meeting, size):
            return False
        before = a
    return True


@jit
def losses_and_deltas(net, work, blocks, room, part, labelled, loss, delta):
    """Write the losses, and dA or dZ of the last layer, of a range of blocks."""
    layers, _, places = net
    S = block(work)
    unit = room * S
    row = layers[layers.shape[0] - 1]
    k, z, a, d = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[D] * unit
    stride = padded(k, work) * S
    for at in range(blocks[0] + part[0], blocks[1], part[1]):
        each = places[EACH] * unit + at * 4 * S
        y = places[TARGETS] * unit + at * (1 if labelled else k) * S
        loss_and_delta(
            loss, delta, work, z + at * stride, a + at * stride, d + at * stride, y, each + SHARES * S,
            each + LOSSES * S, k, labelled, each + LARGEST * S, each + SUMS * S,
        )  # fmt: skip


@jit
def deltas(net, theta, work, blocks, room, part, meeting, loss):
    """Turn dA of the last layer into dZ of all layers (N12, N15), for a range of blocks; return as `forward` does."""
    layers, options, places = net
    rank, size = part
    S = block(work)
    unit = room * S
    last = layers.shape[0] - 1
    for layer in range(last, -1, -1):
        row = layers[layer]
        n_prev, n, z, a, d = row[INPUTS], row[OUTPUTS], row[Z] * unit, row[A] * unit, row[D] * unit
        stride = padded(n, work) * S
        code = row[ACTIVATION]
        if layer == last and loss >= SIGMOID_FUSED:
            code = IDENTITY  # dZ = A - Y is already there: N11
        rows = share(n, part)
        count = (rows[1] - rows[0]) * S
        before = layers[layer - 1][D] * unit if layer > 0 else 0
        if row[KIND] == DROPOUT:
            for at in range(blocks[0], blocks[1] if layer > 0 else blocks[0]):
                x = at * stride + rows[0] * S
                mask, D_prev, here = view(work, z + x, count), view(work, before + x, count), view(work, d + x, count)
                for i in range(count):
                    D_prev[i] = here[i] * mask[i]
        elif code == SOFTMAX:
            for at in range(blocks[0] + rank, blocks[1], size):
                each = places[EACH] * unit + at * 4 * S
                softmax_backward(work, d + at * stride, a + at * stride, n, each + SUMS * S)
        elif code != IDENTITY:
            for at in range(blocks[0], blocks[1]):
                x = at * stride + rows[0] * S
                backward(
                    code, options[layer], view(work, d + x, count), view(work, z + x, count), view(work, a + x, count)
                )  # fmt: skip
        if not wait(meeting, size):
            return False
        if row[KIND] == DENSE and layer > 0:
            input_gradient(theta, row[W], n, n_prev, work, d, before, blocks, share(n_prev, part))
            if not wait(meeting, size):
                return False
    return True


@jit
def gradient(net, theta, g, lost, several, work, squares, blocks, room, part, l2, add, last):
    """Write this thread's rows of the gradient (N13, N14), or add to them; and, with the `last`, the sums of squares.

    If the sums have `several` parts, `lost` accumulates the rounding errors of the additions, which are added to g with
    the last part. There is one sum of squares for each tile of rows, whichever thread computes it, so their total does
    not depend on the threads. Those of the weights, if L2 needs them, follow in the second half.
    """
    layers = net[0]
    tiles = squares.shape[0] // 2
    unit = room * block(work)
    for layer in range(layers.shape[0]):
        row = layers[layer]
        if row[KIND] != DENSE:
            continue
        n_prev, n, d, turned = row[INPUTS], row[OUTPUTS], row[D] * unit, row[TURNED] * unit
        start, stop = share(n, part)
        for low in range(start, stop, GROUP):
            high = min(stop, low + GROUP)
            first, b_first = row[W] + low * n_prev, row[B] + low
            if several and not add:
                fill(lost, first, (high - low) * n_prev)
                fill(lost, b_first, high - low)
            weight_gradient(g, lost, row[W], n, n_prev, work, d, turned, blocks, room, (low, high), add)
            bias_gradient(g, lost, row[B], n, work, d, blocks, (low, high), add)
            if not last:
                continue
            if several:
                increase(g, lost, first, (high - low) * n_prev)
                increase(g, lost, b_first, high - low)
            for i in range(low, high, ROWS):
                count = min(ROWS, high - i)
                square, weights = squares_of(g, theta, row[W] + i * n_prev, count * n_prev, l2)
                squares[tiles + row[TILES] + i // ROWS] = weights
                b = view(g, row[B] + i, count)
                for r in range(count):
                    square += b[r] * b[r]
                squares[row[TILES] + i // ROWS] = square


@jit
def fill(x, at, n):
    """Fill ``x[at : at + n]`` with zeros."""
    part = view(x, at, n)
    for i in range(n):
        part[i] = 0


@jit
def increase(x, y, at, n):
    """Add ``y[at : at + n]`` to ``x[at : at + n]``."""
    part, more = view(x, at, n), view(y, at, n)
    for i in range(n):
        part[i] += more[i]


def regions(rows: np.ndarray, S: int, targets: int, training: bool) -> np.ndarray:
    """Fill the regions into a table of layers, for blocks of S samples, and return the further regions' places.

    Z and A share a region where the slope of the activation is a function of A alone, except in the last layer, whose Z
    the fused losses need. The last of the numbers returned is the place of the sums of squares.
    """
    at = tiles = 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return at - n

    def room_for(n: int) -> int:
        return -(-n // S) * S

    x, x_turned = take(room_for(rows[0, INPUTS])), take(room_for(rows[0, INPUTS]))
    last = len(rows) - 1
    for layer, row in enumerate(rows):
        room = room_for(row[OUTPUTS])
        row[Z] = take(room)
        shared = row[KIND] == DENSE and not NEEDS_Z[row[ACTIVATION]] and layer != last
        row[A] = row[Z] if shared else take(room)
        row[D] = take(room) if training or layer == last else 0
        if row[KIND] == DENSE and training:
            row[TURNED] = x_turned if layer == 0 else take(room_for(row[INPUTS]))
            row[TILES] = tiles
            tiles += -(-int(row[OUTPUTS]) // ROWS)
    return np.array([x, x_turned, take(targets), take(4), at, tiles], np.int64)
