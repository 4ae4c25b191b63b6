"""An interpreter for networks whose layers all have kernels, compiled once for each dtype.

A network is described by a table of integers, with one row for each layer; by the rates of its dropout layers; and by
the regions that belong to no layer. Activations and losses are computed by generated kernels, called by their
addresses. All arrays are in one workspace. Each has a region with memory for a number of blocks of S samples; see
:mod:`deepnotes_numba.products`. The table holds the offset of each region, divided by the number of samples that the
workspace has memory for.

Either each thread computes a range of blocks, as a team of one, or the threads of a larger team share the rows of each
array, and wait for each other after each layer.
"""

import numpy as np

from deepnotes_numba.arguments import BatchNormLayer, DenseLayer, DropoutCounters
from deepnotes_numba.barrier import wait
from deepnotes_numba.batch_norm import (
    differentiate_batch,
    normalize_batch,
    normalize_by_running_statistics,
    write_changes,
)
from deepnotes_numba.batches import transpose_blocks
from deepnotes_numba.codes import BY_SAMPLE, IDENTITY, IN_PLACE
from deepnotes_numba.compiling import inline_source, jit
from deepnotes_numba.elementary import ZERO
from deepnotes_numba.masks import add_noise, dropout
from deepnotes_numba.products import (
    GROUP,
    INT_ONE,
    INT_ZERO,
    bias_gradient,
    input_gradient,
    linear,
    padded,
    share,
    weight_gradient,
)
from deepnotes_numba.regularization import add_penalties
from deepnotes_numba.vectors import ROWS, address, block, invoke, matrix, view

DENSE, DROPOUT, BY_FEATURE, BATCH_NORM, SHORTCUT, NOISE, COPY, EMBEDDING = range(8)
(
    KIND, INPUTS, OUTPUTS, W, B, ACTIVATION, NUMBER, FORWARD, BACKWARD, CONSTANTS, PARAMETERS, SOURCE, Z, A, D, PANELS,
    TILES, ADDED,
) = range(18)  # fmt: skip
"""Columns of the table of layers.

FORWARD, BACKWARD and CONSTANTS are the addresses of the kernels of the activation, or of a layer by feature, and of
their constants. Z, A, D (dA, then dZ) and PANELS (the layer's inputs, transposed) are regions. TILES is the number of
the layer's first tile of rows, counting the tiles of all layers before it.

A layer by feature has as many inputs as outputs, or twice as many. It has a number of PARAMETERS of one number per row,
stored one after the other from B on; its Z are the terms of their gradients, one array after the other, and, in the
first layer, dA of the samples, which nothing needs. If bit i of W is 1, the terms of parameter i are D instead.

A batch normalization has its PARAMETERS from B on, and its running statistics from W on. Its CONSTANTS are epsilon and
the momentum, its Z are the normalized inputs and, after them, three numbers for each feature; see
:class:`deepnotes_numba.arguments.BatchNormLayer`.

A shortcut adds the output of the layer SOURCE, or the samples if it is -1, to its input. Its dA is also part of dA of
the source: the layer after the source adds the region ADDED to its dA_prev. If several shortcuts have one source, that
region is D of the last of them, and Z of the others, to which they add their dA. The region 0 is that of X, so that 0
stands for no region.
"""
COLUMNS = 18
FIRST, SIZE, CATEGORIES = FORWARD, BACKWARD, CONSTANTS
"""What these columns are in the rows of an embedding, the first layer of a network: one or several rows of the table.

A row of the kind COPY copies SIZE rows of X, from row W on; a row of the kind EMBEDDING looks up the vectors for row B
of X in a table of CATEGORIES vectors of SIZE numbers, which begins at parameter W. All of them write to the rows of one
region A from row FIRST on, and read one region D.
"""
X_BLOCKS, X_PANELS, TARGETS, SAMPLE_ROWS, END = range(5)
"""Further regions: X, X transposed, the targets, and two rows for each block. END is the size of all regions."""
SHARES, LOSSES = range(2)
"""The two rows of a block: each sample's share of the mean, and its weighted loss."""


@jit
def forward(tables, theta, work, blocks, team, counters, samples):
    """Run all layers on a range of blocks; return False if a thread of the team has failed.

    With batch normalization, the blocks hold all `samples` of a batch; in a prediction, `samples` is 0.
    """
    unit = work.capacity * block(work.memory)
    a_prev = tables.regions[X_BLOCKS] * unit
    for layer in range(tables.layers.shape[0]):
        row = tables.layers[layer]
        if row[KIND] == DENSE:
            if not _run_dense(tables, layer, theta, work, a_prev, blocks, team, counters.training):
                return False
        elif row[KIND] == BY_FEATURE or row[KIND] == BATCH_NORM:
            _run_features(row, theta, work, a_prev, blocks, team, samples)
        elif row[KIND] == COPY or row[KIND] == EMBEDDING:
            _run_embedding(row, theta, work, tables.regions[X_BLOCKS] * unit, blocks, team)
            if layer + 1 < tables.layers.shape[0] and tables.layers[layer + 1, KIND] >= COPY:
                continue  # the next row is one of the same layer
        elif row[KIND] == SHORTCUT:
            source = _input_region(tables, row[SOURCE] + 1) * unit
            _add_arrays(row, work, a_prev, source, row[A] * unit, blocks, team)
        elif counters.training:
            _run_random(tables, layer, work, a_prev, blocks, team, counters)
        else:
            continue
        if not wait(team):
            return False
        a_prev = row[A] * unit
    return True


@inline_source
def _run_embedding(row, theta, work, x, blocks, team):
    """Write some rows of the outputs of an embedding, for samples at offset `x`."""
    memory = work.memory
    S = block(memory)
    x_stride, stride = padded(row[INPUTS], memory) * S, padded(row[OUTPUTS], memory) * S
    a = row[A] * work.capacity * S
    for at in range(blocks[0] + team.rank, blocks[1], team.size):
        embed(row, theta, memory, x + at * x_stride, memory, a + at * stride, S)


@jit
def embed(row, theta, X, x, A, a, m):
    """Write rows of the outputs of an embedding to offset `a` of A, for m samples at offset `x` of X."""
    size = row[SIZE]
    out = matrix(A, a + row[FIRST] * m, size, m)
    if row[KIND] == COPY:
        source = matrix(X, x + row[W] * m, size, m)
        for i in range(size):
            for s in range(m):
                out[i, s] = source[i, s]
        return
    indices = view(X, x + row[B] * m, m)
    for s in range(m):
        vector = view(theta, row[W] + _category(indices[s], row[CATEGORIES]) * size, size)
        for i in range(size):
            out[i, s] = vector[i]


@jit
def _category(index, categories):
    """Return an index as an integer; the indices are checked before, but any other number must not read elsewhere."""
    return np.int64(index) if 0 <= index < categories else INT_ZERO


@inline_source
def _run_random(tables, layer, work, a_prev, blocks, team, counters):
    """Apply dropout to the activations at offset `a_prev`, or add noise."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit = work.capacity * S
    stride = padded(row[OUTPUTS], memory) * S
    for at in range(blocks[0] + team.rank, blocks[1], team.size):
        x = at * stride
        a, mask = row[A] * unit + x, row[Z] * unit + x
        block_counters = DropoutCounters(
            counters.training, counters.seed, counters.step, counters.first_sample + at * S
        )
        if row[KIND] == NOISE:
            add_noise(memory, a_prev + x, a, row[OUTPUTS], tables.rates[layer], row[NUMBER], block_counters)
        else:
            dropout(memory, a_prev + x, a, mask, row[OUTPUTS], tables.rates[layer], row[NUMBER], block_counters)


@jit
def _input_region(tables, layer):
    """Return the region of the inputs of a layer."""
    return tables.layers[layer - 1, A] if layer > 0 else tables.regions[X_BLOCKS]


@inline_source
def _run_features(row, theta, work, a_prev, blocks, team, samples):
    """Compute A of a layer by feature or of a batch normalization from the activations at offset `a_prev`."""
    if row[KIND] == BY_FEATURE:
        _run_by_feature(row, theta, work, a_prev, blocks, team)
    else:
        _run_batch_norm(row, theta, work, a_prev, blocks, team, samples)


@inline_source
def _run_by_feature(row, theta, work, a_prev, blocks, team):
    """Compute A of a layer by feature from the activations at offset `a_prev`."""
    memory = work.memory
    S = block(memory)
    x_stride, stride = padded(row[INPUTS], memory) * S, padded(row[OUTPUTS], memory) * S
    a = row[A] * work.capacity * S
    for at in range(blocks[0] + team.rank, blocks[1], team.size):
        compute_by_feature(row, theta, address(memory, a_prev + at * x_stride), address(memory, a + at * stride), S)


@jit
def compute_by_feature(row, theta, x, a, m):
    """Write A of a layer by feature to address `a`, for m samples at address `x`."""
    invoke(row[FORWARD], (x, a, address(theta, row[B]), row[OUTPUTS], m, row[CONSTANTS]))


@inline_source
def _run_batch_norm(row, theta, work, a_prev, blocks, team, samples):
    """Compute A of a batch normalization from the activations at offset `a_prev`; in a prediction, `samples` is 0."""
    memory = work.memory
    S = block(memory)
    layer, rows = batch_norm_layer(row, work), share(row[OUTPUTS], team.rank, team.size)
    if samples > 0:
        normalize_batch(theta, layer, memory, a_prev, blocks, samples, rows)
    else:
        normalize_by_running_statistics(theta, layer, memory, a_prev, memory, blocks, rows, S)


@jit
def batch_norm_layer(row, work):
    """Return the parameters and regions of a batch normalization."""
    unit = work.capacity * block(work.memory)
    regions = row[A] * unit, row[Z] * unit, (row[Z] + padded(row[OUTPUTS], work.memory)) * unit
    return BatchNormLayer(row[B], row[W], row[OUTPUTS], row[CONSTANTS], *regions)


@jit
def _add_arrays(row, work, first, second, result, blocks, team):
    """Write the sum of two arrays of the shape of a layer's output to offset `result`, which may be one of them."""
    memory = work.memory
    S = block(memory)
    stride = padded(row[OUTPUTS], memory) * S
    rows = share(row[OUTPUTS], team.rank, team.size)
    count = (rows[1] - rows[0]) * S
    for at in range(blocks[0], blocks[1]):
        x = at * stride + rows[0] * S
        a, b, c = view(memory, first + x, count), view(memory, second + x, count), view(memory, result + x, count)
        for i in range(count):
            c[i] = a[i] + b[i]


@inline_source
def _run_dense(tables, layer, theta, work, a_prev, blocks, team, training):
    """Compute Z and A from the activations at offset `a_prev`; return False if a thread of the team has failed."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit = work.capacity * S
    n, z, a, code = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[ACTIVATION]
    stride = padded(n, memory) * S
    if training and layer > 0:
        transpose_blocks(work, a_prev, row[INPUTS], row[PANELS] * unit, blocks, team.rank, team.size)
    rows = share(n, team.rank, team.size)
    linear(theta, DenseLayer(row[W], row[B], n, row[INPUTS]), memory, a_prev, z, blocks, rows)
    if code == BY_SAMPLE:
        if not wait(team):
            return False
        for at in range(blocks[0] + team.rank, blocks[1], team.size):
            activate(row, memory, z + at * stride, a + at * stride, n, S)
    elif code != IDENTITY:
        for at in range(blocks[0], blocks[1]):
            x = at * stride + rows[0] * S
            activate(row, memory, z + x, a + x, rows[1] - rows[0], S)
    return True


@jit
def activate(row, memory, z, a, n, m):
    """Write ``A = g(Z)`` (N3) for n rows of m samples, from offset `z` to offset `a`."""
    invoke(row[FORWARD], (address(memory, z), address(memory, a), n, m, row[CONSTANTS]))


@jit
def losses_and_deltas(tables, work, blocks, rank, size, function):
    """Write the losses, and dA or dZ of the last layer, for every `size`-th block of a range, from block `rank` on."""
    layers, regions, memory = tables.layers, tables.regions, work.memory
    S = block(memory)
    unit = work.capacity * S
    row = layers[layers.shape[0] - 1]
    k, z, a, d = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[D] * unit
    stride = padded(k, memory) * S
    for at in range(blocks[0] + rank, blocks[1], size):
        x = at * stride
        y = regions[TARGETS] * unit + at * (1 if function.class_indices else k) * S
        rows = regions[SAMPLE_ROWS] * unit + at * 2 * S
        arrays = (
            address(memory, z + x), address(memory, a + x), address(memory, y), address(memory, d + x),
            address(memory, rows + SHARES * S), address(memory, rows + LOSSES * S),
        )  # fmt: skip
        sizes = k, S, INT_ONE if function.class_indices else INT_ZERO
        invoke(function.kernel, (*arrays, *sizes, function.constants))


@jit
def deltas(tables, buffers, work, blocks, team, fused, samples):
    """Compute dZ of all layers from dA of the last layer (N12, N15), for a range of blocks, as `forward` does.

    A batch normalization also writes its gradients. Return False if a thread of the team has failed.
    """
    layers, theta, memory = tables.layers, buffers.theta, work.memory
    unit = work.capacity * block(memory)
    last = layers.shape[0] - 1
    for layer in range(last, -1, -1):
        row = layers[layer]
        if row[KIND] >= COPY:  # the first layer, whose inputs need no derivative
            break
        d_prev = layers[layer - 1][D] * unit if layer > 0 else 0
        if row[KIND] != DENSE or layer < last or not fused:  # a fused loss has computed dZ = A - Y (N11)
            _run_elements_backward(tables, layer, buffers, work, d_prev, blocks, team, samples)
        if not wait(team):
            return False
        if row[KIND] == DENSE and layer > 0:
            dense = DenseLayer(row[W], row[B], row[OUTPUTS], row[INPUTS])
            rows = _rows_to_differentiate(layers, layer, team)
            input_gradient(theta, dense, memory, row[D] * unit, d_prev, blocks, rows)
            if not wait(team):
                return False
        if layer > 0 and row[ADDED] > 0:
            _add_arrays(layers[layer - 1], work, d_prev, row[ADDED] * unit, d_prev, blocks, team)
            if not wait(team):
                return False
    return True


@jit
def _rows_to_differentiate(layers, layer, team):
    """Return this thread's range of rows of dA_prev; nothing needs those that an embedding has copied from X."""
    copied = 0
    if layers[layer - 1, KIND] >= COPY:
        for i in range(layer):
            copied += layers[i, SIZE] if layers[i, KIND] == COPY else 0
    start, stop = share(layers[layer, INPUTS] - copied, team.rank, team.size)
    return copied + start, copied + stop


@inline_source
def _run_elements_backward(tables, layer, buffers, work, d_prev, blocks, team, samples):
    """Compute dZ of a dense layer from its dA, or, for another layer, dA of the layer before to offset `d_prev`."""
    row = tables.layers[layer]
    if row[KIND] == DENSE:
        _run_activation_backward(tables, layer, work, blocks, team)
    elif row[KIND] == BY_FEATURE:
        _run_by_feature_backward(tables, layer, buffers.theta, work, d_prev, blocks, team)
    elif row[KIND] == BATCH_NORM:
        d, rows = row[D] * work.capacity * block(work.memory), share(row[OUTPUTS], team.rank, team.size)
        differentiate_batch(buffers, batch_norm_layer(row, work), work.memory, d, d_prev, blocks, samples, rows)
    elif layer > 0 and (row[KIND] == SHORTCUT or row[KIND] == NOISE):
        _run_sum_backward(row, work, d_prev, blocks, team)
    elif layer > 0:
        _run_dropout_backward(row, work, d_prev, blocks, team)


@inline_source
def _run_by_feature_backward(tables, layer, theta, work, d_prev, blocks, team):
    """Write dA of the layer before a layer by feature to offset `d_prev`, and the terms of its gradients."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit, height = work.capacity * S, padded(row[OUTPUTS], memory)
    apart, stride, x_stride = height * unit, height * S, padded(row[INPUTS], memory) * S
    x, d, terms = _input_region(tables, layer) * unit, row[D] * unit, row[Z] * unit
    if layer == 0:
        d_prev = terms + row[PARAMETERS] * apart
    for at in range(blocks[0] + team.rank, blocks[1], team.size):
        places = d + at * stride, x + at * x_stride, d_prev + at * x_stride, terms + at * stride
        _differentiate_by_feature(row, theta, memory, places, apart, S)


@jit
def _differentiate_by_feature(row, theta, memory, places, apart, S):
    """Compute the backward pass of a layer by feature for S samples; the arrays are dA, A_prev, dA_prev, the terms."""
    d, x, d_prev, terms = places
    parameters = address(theta, row[B])
    arrays = address(memory, d), address(memory, x), parameters, address(memory, d_prev), address(memory, terms)
    invoke(row[BACKWARD], (*arrays, apart, row[OUTPUTS], S, row[CONSTANTS]))


@inline_source
def _run_sum_backward(row, work, d_prev, blocks, team):
    """Copy dA of a shortcut or noise to offset `d_prev`; add it to that of the last shortcut from the same source."""
    memory = work.memory
    S = block(memory)
    unit = work.capacity * S
    stride = padded(row[OUTPUTS], memory) * S
    rows = share(row[OUTPUTS], team.rank, team.size)
    count = (rows[1] - rows[0]) * S
    for at in range(blocks[0], blocks[1]):
        x = at * stride + rows[0] * S
        dA, D_prev = view(memory, row[D] * unit + x, count), view(memory, d_prev + x, count)
        for i in range(count):
            D_prev[i] = dA[i]
    if row[Z] > 0:
        _add_arrays(row, work, row[Z] * unit, row[D] * unit, row[Z] * unit, blocks, team)


@inline_source
def _run_dropout_backward(row, work, d_prev, blocks, team):
    """Write dA of the previous layer to offset `d_prev`."""
    memory = work.memory
    S = block(memory)
    unit = work.capacity * S
    stride = padded(row[OUTPUTS], memory) * S
    rows = share(row[OUTPUTS], team.rank, team.size)
    count = (rows[1] - rows[0]) * S
    for at in range(blocks[0], blocks[1]):
        x = at * stride + rows[0] * S
        mask, D_prev = view(memory, row[Z] * unit + x, count), view(memory, d_prev + x, count)
        dA = view(memory, row[D] * unit + x, count)
        for i in range(count):
            D_prev[i] = dA[i] * mask[i]


@inline_source
def _run_activation_backward(tables, layer, work, blocks, team):
    """Compute dZ of a layer from its dA (N12)."""
    row, memory = tables.layers[layer], work.memory
    S = block(memory)
    unit = work.capacity * S
    n, z, a, d, code = row[OUTPUTS], row[Z] * unit, row[A] * unit, row[D] * unit, row[ACTIVATION]
    stride = padded(n, memory) * S
    if code == BY_SAMPLE:
        for at in range(blocks[0] + team.rank, blocks[1], team.size):
            x = at * stride
            _multiply_by_slope(row, memory, d + x, z + x, a + x, n, S)
    elif code != IDENTITY:
        rows = share(n, team.rank, team.size)
        for at in range(blocks[0], blocks[1]):
            x = at * stride + rows[0] * S
            _multiply_by_slope(row, memory, d + x, z + x, a + x, rows[1] - rows[0], S)


@jit
def _multiply_by_slope(row, memory, d, z, a, n, S):
    """Replace dA, stored at offset `d`, by ``dZ = dA * g'(Z)`` (N12) for n rows of S samples."""
    places = address(memory, d), address(memory, z), address(memory, a)
    invoke(row[BACKWARD], (*places, n, S, row[CONSTANTS]))


@jit
def gradient(tables, buffers, squares, work, samples, team, penalties, stage):
    """Compute this thread's rows of the gradient (N13, N14) from the first `samples` samples in the workspace.

    `stage` is a triple: whether these samples are the first of the batch, whether they are the last, and 1 or, for a
    shard, the part of the batch that it is, by which the changes of running statistics are multiplied. The first
    overwrite the gradient, and later samples add to it. After the last, the rounding errors are added, and the sums of
    squares are written. There is one sum of squares for each tile of rows, so that their total does not depend on which
    thread computes which tile. `penalties` are the factors of L1 and L2; the second half of `squares` holds the
    penalties of the weights. If `squares` is empty, nothing is squared, and there must be no penalty.
    """
    layers, memory, (first, last, part) = tables.layers, work.memory, stage
    S = block(memory)
    unit, blocks, stage_of_layer = work.capacity * S, (samples + S - 1) // S, (penalties, first, last)
    for layer in range(layers.shape[0]):
        row = layers[layer]
        n = row[OUTPUTS]
        if row[KIND] == DENSE:
            dense = DenseLayer(row[W], row[B], n, row[INPUTS])
            offsets = row[D] * unit, row[PANELS] * unit, row[TILES]
            _gradient_of(dense, offsets, buffers, squares, work, blocks, team, stage_of_layer)
        elif row[KIND] == EMBEDDING:
            x = tables.regions[X_BLOCKS] * unit
            _table_gradient(row, x, buffers, squares, work, samples, team, stage_of_layer)
        elif row[KIND] == BATCH_NORM:
            _finish_batch_norm(row, buffers, squares, work, samples, team, part)
        elif row[KIND] == BY_FEATURE:
            for i in range(row[PARAMETERS]):  # each is like the biases of a dense layer without weights
                biases = DenseLayer(INT_ZERO, row[B] + i * n, n, INT_ZERO)
                terms = row[D] if row[W] >> i & 1 else row[Z] + i * padded(n, memory)
                offsets = terms * unit, INT_ZERO, row[TILES] + i * ((n + ROWS - 1) // ROWS)
                _gradient_of(biases, offsets, buffers, squares, work, blocks, team, stage_of_layer)


@jit
def _gradient_of(dense, offsets, buffers, squares, work, blocks, team, stage):
    """Compute this thread's rows of the gradient of one layer.

    `offsets` are those of dZ and of the transposed inputs, and the number of the first tile; `stage` holds the
    factors of the penalties, and whether the samples are the first and the last of the batch.
    """
    d, panels, tile = offsets
    penalties, first, last = stage
    memory = work.memory
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
        if squares.shape[0] > 0:
            _sum_squares(buffers, squares, dense, tile, rows, penalties)


@jit
def _finish_batch_norm(row, buffers, squares, work, samples, team, part):
    """Write the changes of this thread's statistics, and the squares of the gradients, which `deltas` has written.

    The statistics have no squares, but if a change is not finite, the sum of squares becomes NaN.
    """
    layer, tiles = batch_norm_layer(row, work), squares.shape[0] // 2
    start, stop = share(layer.n, team.rank, team.size)
    for i in range(start, stop, ROWS):
        rows = i, min(stop, i + ROWS)
        square = write_changes(buffers, layer, work.memory, samples, part, rows)
        if tiles > 0:
            for parameter in range(row[PARAMETERS]):
                g = view(buffers.gradient, layer.parameters + parameter * layer.n + i, rows[1] - i)
                for r in range(g.shape[0]):
                    square += g[r] * g[r]
            squares[row[TILES] + i // ROWS] = square
            squares[tiles + row[TILES] + i // ROWS] = 0.0


@jit
def _table_gradient(row, x, buffers, squares, work, samples, team, stage):
    """Compute this thread's vectors of the gradient of a table, as `_gradient_of` does; X is at offset `x`.

    The terms of a vector are added sample by sample, so that its bits do not depend on the threads.
    """
    penalties, first, last = stage
    memory, size = work.memory, row[SIZE]
    S = block(memory)
    x_stride, stride = padded(row[INPUTS], memory) * S, padded(row[OUTPUTS], memory) * S
    start, stop = share(row[CATEGORIES], team.rank, team.size)
    table = DenseLayer(row[W], INT_ZERO, row[CATEGORIES], size)
    if first:
        _clear_vectors(buffers.gradient, table, (start, stop))
        if buffers.compensated:
            _clear_vectors(buffers.errors, table, (start, stop))
    for at in range((samples + S - 1) // S):
        indices = view(memory, x + at * x_stride + row[B] * S, S)
        d = matrix(memory, row[D] * work.capacity * S + at * stride + row[FIRST] * S, size, S)
        for s in range(min(S, samples - at * S)):
            category = _category(indices[s], row[CATEGORIES])
            if start <= category < stop:
                _add_column(buffers, row[W] + category * size, d, s)
    if not last:
        return
    if buffers.compensated:
        _add_vectors(buffers.gradient, buffers.errors, table, (start, stop))
    if squares.shape[0] == 0:
        return
    tiles = squares.shape[0] // 2
    for i in range(start, stop, ROWS):
        count = min(ROWS, stop - i) * size
        square, penalty = add_penalties(buffers.gradient, buffers.theta, row[W] + i * size, count, *penalties)
        squares[row[TILES] + i // ROWS] = square
        squares[tiles + row[TILES] + i // ROWS] = penalty


@inline_source
def _add_column(buffers, at, d, s):
    """Add column s of `d` to a vector of the gradient, and the rounding errors if sums are compensated."""
    size = d.shape[0]
    sums = view(buffers.gradient, at, size)
    if not buffers.compensated:
        for i in range(size):
            sums[i] += d[i, s]
        return
    errors = view(buffers.errors, at, size)
    for i in range(size):  # as add_run does
        a, b = sums[i], d[i, s]
        total = a + b
        of_b = total - a
        error = (a - (total - of_b)) + (b - of_b)
        errors[i] += error if error == error else ZERO(error)
        sums[i] = total


@inline_source
def _sum_squares(buffers, squares, dense, tile, rows, penalties):
    """Add the gradients of the penalties to some rows, and write the sums; the layer begins with `tile`."""
    g, n_prev, tiles = buffers.gradient, dense.n_prev, squares.shape[0] // 2
    for i in range(rows[0], rows[1], ROWS):
        count, square, penalty = min(ROWS, rows[1] - i), 0.0, 0.0
        if n_prev > 0:  # a layer by feature has no weights
            square, penalty = add_penalties(g, buffers.theta, dense.w + i * n_prev, count * n_prev, *penalties)
        squares[tiles + tile + i // ROWS] = penalty
        b = view(g, dense.b + i, count)
        for r in range(count):
            square += b[r] * b[r]
        squares[tile + i // ROWS] = square


@inline_source
def _clear_vectors(x, dense, rows):
    """Set some rows of a layer's weights to zero."""
    weights = view(x, dense.w + rows[0] * dense.n_prev, (rows[1] - rows[0]) * dense.n_prev)
    for i in range(weights.shape[0]):
        weights[i] = 0


@jit
def _clear_rows(x, dense, rows):
    """Set some rows of a layer's weights and biases to zero."""
    low, count = rows[0], rows[1] - rows[0]
    _clear_vectors(x, dense, rows)
    biases = view(x, dense.b + low, count)
    for i in range(count):
        biases[i] = 0


@inline_source
def _add_vectors(x, y, dense, rows):
    """Add y to x in some rows of a layer's weights."""
    at, n = dense.w + rows[0] * dense.n_prev, (rows[1] - rows[0]) * dense.n_prev
    weights, other_weights = view(x, at, n), view(y, at, n)
    for i in range(n):
        weights[i] += other_weights[i]


@jit
def _add_rows(x, y, dense, rows):
    """Add y to x in some rows of a layer's weights and biases."""
    low, count = rows[0], rows[1] - rows[0]
    _add_vectors(x, y, dense, rows)
    biases, other_biases = view(x, dense.b + low, count), view(y, dense.b + low, count)
    for i in range(count):
        biases[i] += other_biases[i]


def assign_regions(rows: np.ndarray, S: int, targets: int, training: bool) -> np.ndarray:
    """Write the regions into the table of layers `rows`; return the regions that belong to no layer.

    S is the number of samples in a block, and `targets` the number of rows for targets. The last element of the result
    is the number of tiles of rows in all layers.
    """
    end = tiles = 0

    def reserve(n: int) -> int:
        nonlocal end
        end += n
        return end - n

    x, x_panels = (reserve(_padded_rows(rows[0, INPUTS], S)) for _ in range(2))
    last = len(rows) - 1
    for layer, row in enumerate(rows):
        height = _padded_rows(row[OUTPUTS], S)
        if row[KIND] in (DENSE, DROPOUT):
            row[Z] = reserve(height)
        elif row[KIND] in (BY_FEATURE, BATCH_NORM) and training:
            row[Z] = reserve(_rows_for_backward(row, S, layer == 0))
        if training:
            row[TILES], tiles = tiles, tiles + _tiles_of(row)
        if layer and row[KIND] >= COPY:  # all rows of an embedding have the same regions
            row[A], row[D] = rows[0, A], rows[0, D]
            continue
        shared = row[KIND] == DENSE and row[ACTIVATION] in (IDENTITY, IN_PLACE)
        row[A] = row[Z] if shared else reserve(height)
        row[D] = reserve(height) if training or layer == last or row[KIND] >= COPY else 0
        if row[KIND] == DENSE and training:
            row[PANELS] = x_panels if layer == 0 else reserve(_padded_rows(row[INPUTS], S))
    if training:
        _connect_shortcuts(rows)
    return np.array([x, x_panels, reserve(targets), reserve(2), end, tiles], np.int64)


def _padded_rows(n: int, S: int) -> int:
    return -(-n // S) * S


def _rows_for_backward(row: np.ndarray, S: int, first: bool) -> int:
    """Return the number of rows of the region Z of a layer by feature or of a batch normalization."""
    height = _padded_rows(int(row[OUTPUTS]), S)
    if row[KIND] == BATCH_NORM:
        return height - (-3 * int(row[OUTPUTS]) // S)
    return int(row[PARAMETERS]) * height + (_padded_rows(int(row[INPUTS]), S) if first else 0)


def _tiles_of(row: np.ndarray) -> int:
    """Return the number of tiles of rows of a layer's gradients."""
    rows = row[CATEGORIES] if row[KIND] == EMBEDDING else row[OUTPUTS]
    arrays = {DENSE: 1, EMBEDDING: 1, BATCH_NORM: 1, BY_FEATURE: row[PARAMETERS]}.get(int(row[KIND]), 0)
    return -(-int(rows) // ROWS) * int(arrays)


def _connect_shortcuts(rows: np.ndarray) -> None:
    """Write the regions by which the derivatives of shortcuts reach their sources."""
    last: dict[int, int] = {}
    for layer in range(len(rows) - 1, -1, -1):
        row = rows[layer]
        if row[KIND] == SHORTCUT:
            source = int(row[SOURCE])
            if source in last:
                row[Z] = rows[last[source], D]
            else:
                last[source] = layer
                rows[source + 1, ADDED] = row[D]
