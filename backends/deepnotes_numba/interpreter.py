"""An interpreter of networks whose layers all have kernels, compiled once for each dtype.

A network is a table of integers, with one row for each layer, an option for each layer, and the regions that belong to
no layer. All arrays lie in one workspace, in regions for a number of blocks of S samples; see
:mod:`deepnotes_numba.products`. The tables hold the start of each region for a workspace of one sample, so a region
starts at that number times the samples of the workspace.

Each thread computes a range of blocks, as a team of one. Or the threads of a larger team share the rows of each array,
and wait for each other after each layer.
"""

import numpy as np

from deepnotes_numba.activations import (
    NEEDS_Z,
    activate,
    activate_in_place,
    backward,
    softmax,
    softmax_backward,
)
from deepnotes_numba.arguments import DenseLayer, Draw, OutputBlock
from deepnotes_numba.barrier import wait
from deepnotes_numba.batches import transpose_blocks
from deepnotes_numba.codes import IDENTITY, SIGMOID_FUSED, SOFTMAX
from deepnotes_numba.compiling import jit, substituted
from deepnotes_numba.losses import loss_and_delta
from deepnotes_numba.masks import dropout
from deepnotes_numba.products import GROUP, bias_gradient, input_gradient, linear, padded, share, weight_gradient
from deepnotes_numba.updates import add_l2
from deepnotes_numba.vectors import ROWS, block, view

DENSE, DROPOUT = 0, 1
KIND, INPUTS, OUTPUTS, W, B, ACTIVATION, NUMBER, Z, A, D, PANELS, TILES = range(12)
"""Columns of the table of layers. Z, A, D (dA, then dZ) and PANELS (the layer's inputs, transposed) are regions.

TILES is the number of the layer's first tile of rows, among those of all layers.
"""
X_BLOCKS, X_PANELS, TARGETS, SAMPLE_ROWS, END = range(5)
"""Further regions: X, X transposed, the targets, and four rows for each block. END is the size of all regions."""
SHARES, LOSSES, LARGEST, SUMS = range(4)
"""The four rows: each sample's share of the mean, its loss, and two that softmax uses."""


@jit
def forward(tables, theta, work, blocks, team, draw):
    """Run all layers over a range of blocks; return whether all threads of the team took part."""
    unit = work.capacity * block(work.memory)
    before = tables.regions[X_BLOCKS] * unit
    for layer in range(tables.layers.shape[0]):
        row = tables.layers[layer]
        if row[KIND] == DENSE:
            if not _run_dense(tables, layer, theta, work, before, blocks, team, draw.training):
                return False
        elif draw.training:
            _run_dropout(tables, layer, work, before, blocks, team, draw)
        else:
            continue
        if not wait(team):
            return False
        before = row[A] * unit
    return True


@substituted
def _run_dropout(tables, layer, work, before, blocks, team, draw):
    """Apply dropout to the activations at offset `before`."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit = work.capacity * S
    stride = padded(row[OUTPUTS], memory) * S
    for at in range(blocks[0] + team.rank, blocks[1], team.size):
        x = at * stride
        a, mask = row[A] * unit + x, row[Z] * unit + x
        now = Draw(draw.training, draw.seed, draw.step, draw.first + at * S)
        dropout(memory, before + x, a, mask, row[OUTPUTS], tables.options[layer], row[NUMBER], now)


@substituted
def _run_dense(tables, layer, theta, work, before, blocks, team, training):
    """Compute Z and A from the activations at offset `before`; return as `forward` does."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit = work.capacity * S
    n, z, a, code = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[ACTIVATION]
    stride = padded(n, memory) * S
    if training and layer > 0:
        transpose_blocks(work, before, row[INPUTS], row[PANELS] * unit, blocks, team.rank, team.size)
    rows = share(n, team.rank, team.size)
    linear(theta, DenseLayer(row[W], row[B], n, row[INPUTS]), memory, before, z, blocks, rows)
    if code == SOFTMAX:
        if not wait(team):
            return False
        for at in range(blocks[0] + team.rank, blocks[1], team.size):
            each = tables.regions[SAMPLE_ROWS] * unit + at * 4 * S
            softmax(memory, z + at * stride, a + at * stride, n, each + LARGEST * S, each + SUMS * S)
    elif code != IDENTITY or z != a:
        count = (rows[1] - rows[0]) * S
        for at in range(blocks[0], blocks[1]):
            x = at * stride + rows[0] * S
            if z == a:
                activate_in_place(code, tables.options[layer], view(memory, a + x, count))
            else:
                activate(code, tables.options[layer], view(memory, z + x, count), view(memory, a + x, count))
    return True


@jit
def losses_and_deltas(tables, work, blocks, rank, size, function):
    """Write the losses, and dA or dZ of the last layer, of a range of blocks."""
    layers, regions, memory = tables.layers, tables.regions, work.memory
    S = block(memory)
    unit = work.capacity * S
    row = layers[layers.shape[0] - 1]
    k, z, a, d = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[D] * unit
    stride = padded(k, memory) * S
    for at in range(blocks[0] + rank, blocks[1], size):
        each = regions[SAMPLE_ROWS] * unit + at * 4 * S
        y = regions[TARGETS] * unit + at * (1 if function.labelled else k) * S
        outputs = OutputBlock(
            z + at * stride, a + at * stride, d + at * stride, y,
            each + SHARES * S, each + LOSSES * S, each + LARGEST * S, each + SUMS * S, k,
        )  # fmt: skip
        loss_and_delta(function, memory, outputs)


@jit
def deltas(tables, theta, work, blocks, team, loss):
    """Compute dZ of all layers from dA of the last one (N12, N15), for a range of blocks; return as `forward` does."""
    layers, memory = tables.layers, work.memory
    unit = work.capacity * block(memory)
    last = layers.shape[0] - 1
    for layer in range(last, -1, -1):
        row = layers[layer]
        before = layers[layer - 1][D] * unit if layer > 0 else 0
        if row[KIND] == DENSE:
            if layer < last or loss < SIGMOID_FUSED:  # else dZ = A - Y, computed with the loss: N11
                _run_activation_backward(tables, layer, work, blocks, team)
        elif layer > 0:
            _run_dropout_backward(row, work, before, blocks, team)
        if not wait(team):
            return False
        if row[KIND] == DENSE and layer > 0:
            dense = DenseLayer(row[W], row[B], row[OUTPUTS], row[INPUTS])
            rows = share(row[INPUTS], team.rank, team.size)
            input_gradient(theta, dense, memory, row[D] * unit, before, blocks, rows)
            if not wait(team):
                return False
    return True


@substituted
def _run_dropout_backward(row, work, before, blocks, team):
    """Write dA of the layer before, at offset `before`."""
    memory = work.memory
    S = block(memory)
    unit = work.capacity * S
    stride = padded(row[OUTPUTS], memory) * S
    rows = share(row[OUTPUTS], team.rank, team.size)
    count = (rows[1] - rows[0]) * S
    for at in range(blocks[0], blocks[1]):
        x = at * stride + rows[0] * S
        mask, D_prev = view(memory, row[Z] * unit + x, count), view(memory, before + x, count)
        here = view(memory, row[D] * unit + x, count)
        for i in range(count):
            D_prev[i] = here[i] * mask[i]


@substituted
def _run_activation_backward(tables, layer, work, blocks, team):
    """Compute dZ of a layer from its dA (N12)."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit = work.capacity * S
    n, z, a, d, code = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[D] * unit, row[ACTIVATION]
    stride = padded(n, memory) * S
    if code == SOFTMAX:
        for at in range(blocks[0] + team.rank, blocks[1], team.size):
            each = tables.regions[SAMPLE_ROWS] * unit + at * 4 * S
            softmax_backward(memory, d + at * stride, a + at * stride, n, each + SUMS * S)
    elif code != IDENTITY:
        rows = share(n, team.rank, team.size)
        count = (rows[1] - rows[0]) * S
        for at in range(blocks[0], blocks[1]):
            x = at * stride + rows[0] * S
            dA, Z_, A_ = view(memory, d + x, count), view(memory, z + x, count), view(memory, a + x, count)
            backward(code, tables.options[layer], dA, Z_, A_)


@jit
def gradient(layers, buffers, squares, work, blocks, team, l2, stage):
    """Write this thread's rows of the gradient (N13, N14), or add to them, for the first `blocks` of the workspace.

    `stage` is whether these samples are the first of the batch and whether they are the last, after which the rounding
    errors are added and the sums of squares are written. There is one sum of squares for each tile of rows, whichever
    thread computes it, so their total does not depend on the number of threads. The sums of squares of the weights,
    needed for L2, follow in the second half of `squares`.
    """
    first, last = stage
    memory = work.memory
    unit = work.capacity * block(memory)
    for layer in range(layers.shape[0]):
        row = layers[layer]
        if row[KIND] != DENSE:
            continue
        dense = DenseLayer(row[W], row[B], row[OUTPUTS], row[INPUTS])
        d, panels = row[D] * unit, row[PANELS] * unit
        start, stop = share(dense.n, team.rank, team.size)
        for low in range(start, stop, GROUP):
            rows = low, min(stop, low + GROUP)
            if buffers.compensated and first:
                _clear_rows(buffers.errors, dense, rows)
            weight_gradient(buffers, dense, work, d, panels, blocks, rows, not first)
            bias_gradient(buffers, dense, memory, d, blocks, rows, not first)
            if not last:
                continue
            if buffers.compensated:
                _add_rows(buffers.gradient, buffers.errors, dense, rows)
            _sum_squares(buffers, squares, dense, row[TILES], rows, l2)


@substituted
def _sum_squares(buffers, squares, dense, tile, rows, l2):
    """Add the gradient of L2 to some rows, and write the sums of squares; `tile` is the layer's first tile."""
    g, n_prev, tiles = buffers.gradient, dense.n_prev, squares.shape[0] // 2
    for i in range(rows[0], rows[1], ROWS):
        count = min(ROWS, rows[1] - i)
        square, weights = add_l2(g, buffers.theta, dense.w + i * n_prev, count * n_prev, l2)
        squares[tiles + tile + i // ROWS] = weights
        b = view(g, dense.b + i, count)
        for r in range(count):
            square += b[r] * b[r]
        squares[tile + i // ROWS] = square


@jit
def _clear_rows(x, dense, rows):
    """Set some rows of a layer's weights and biases to zero."""
    low, count = rows[0], rows[1] - rows[0]
    weights = view(x, dense.w + low * dense.n_prev, count * dense.n_prev)
    for i in range(weights.shape[0]):
        weights[i] = 0
    biases = view(x, dense.b + low, count)
    for i in range(count):
        biases[i] = 0


@jit
def _add_rows(x, y, dense, rows):
    """Add y to x in some rows of a layer's weights and biases."""
    low, count = rows[0], rows[1] - rows[0]
    at, n = dense.w + low * dense.n_prev, count * dense.n_prev
    weights, other_weights = view(x, at, n), view(y, at, n)
    for i in range(n):
        weights[i] += other_weights[i]
    biases, other_biases = view(x, dense.b + low, count), view(y, dense.b + low, count)
    for i in range(count):
        biases[i] += other_biases[i]


def assign_regions(rows: np.ndarray, S: int, targets: int, training: bool) -> np.ndarray:
    """Write the regions into a table of layers, for blocks of S samples; return the regions that belong to no layer.

    Z and A share a region where the slope of the activation is a function of A alone, except in the last layer, whose Z
    the fused losses need. The last number returned is that of all tiles of rows.
    """
    end = tiles = 0

    def take(n: int) -> int:
        nonlocal end
        end += n
        return end - n

    def padded_rows(n: int) -> int:
        return -(-n // S) * S

    x, x_panels = take(padded_rows(rows[0, INPUTS])), take(padded_rows(rows[0, INPUTS]))
    last = len(rows) - 1
    for layer, row in enumerate(rows):
        height = padded_rows(row[OUTPUTS])
        row[Z] = take(height)
        shared = row[KIND] == DENSE and not NEEDS_Z[row[ACTIVATION]] and layer != last
        row[A] = row[Z] if shared else take(height)
        row[D] = take(height) if training or layer == last else 0
        if row[KIND] == DENSE and training:
            row[PANELS] = x_panels if layer == 0 else take(padded_rows(row[INPUTS]))
            row[TILES] = tiles
            tiles += -(-int(row[OUTPUTS]) // ROWS)
    return np.array([x, x_panels, take(targets), take(4), end, tiles], np.int64)
