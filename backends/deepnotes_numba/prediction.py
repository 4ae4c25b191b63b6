"""Prediction in one compiled call: the outputs and losses of many samples, or the output of one sample."""

import numpy as np

from deepnotes_numba.arguments import (
    DenseLayer,
    DropoutCounters,
    LossFunction,
    Samples,
    Tables,
    Targets,
    Team,
    Workspace,
)
from deepnotes_numba.barrier import wait
from deepnotes_numba.batch_norm import normalize_by_running_statistics
from deepnotes_numba.batches import gather, gather_targets
from deepnotes_numba.codes import IDENTITY, IN_PLACE
from deepnotes_numba.compiling import entry, inline_source, jit
from deepnotes_numba.interpreter import (
    ACTIVATION,
    BATCH_NORM,
    BY_FEATURE,
    COPY,
    DENSE,
    END,
    INPUTS,
    KIND,
    LOSSES,
    OUTPUTS,
    SAMPLE_ROWS,
    SOURCE,
    TARGETS,
    X_BLOCKS,
    X_PANELS,
    A,
    B,
    W,
    activate,
    batch_norm_layer,
    compute_by_feature,
    embed,
    forward,
    losses_and_deltas,
)
from deepnotes_numba.products import INT_ONE, INT_ZERO, padded
from deepnotes_numba.vectors import address, block, dots1, dots8, matrix, matrix_at, pointer, pointer_to, view

PREDICTION, NOT_WEIGHTED, NO_SEED = np.bool_(False), np.bool_(False), np.uint64(0)
"""Variables, because Numba compiles separate functions for literals."""


@entry("prediction")
def predict(team, tables, theta, workspace, samples, Y, loss, results):
    """Write the outputs of some samples and, if `results` has memory for losses, the loss of each sample.

    The samples are consecutive, and fill whole blocks, except for the end of the data.

    Parameters
    ----------
    team : tuple
        The fields of :class:`Team`, with the memory of the barrier as an array.
    tables : tuple
        The fields of :class:`Tables`.
    theta : ndarray
    workspace : tuple
        The fields of :class:`Workspace`, with the memory as an array, and whether threads share the rows of each array;
        if not, the memory holds a workspace for each thread.
    samples : tuple
        The address and shape of X, whether X is laid out by sample, and the indices of the samples.
    Y : ndarray
        The targets, or any matrix if no losses are computed.
    loss : tuple
        The fields of :class:`LossFunction`.
    results : tuple of ndarray
        The outputs, (k, all samples), and the losses, (1, all samples) or (0, 0).
    """
    rank, size, barrier = team
    memory, capacity, split = workspace
    place, shape, by_sample, order = samples
    tables, function, losses = Tables(*tables), LossFunction(*loss), results[1]
    X, targets = matrix_at(place, shape, theta), Targets(Y, losses, NOT_WEIGHTED)
    S = block(memory)
    unit = capacity * S
    low, high = 0, order.shape[0]
    if not split:  # each thread has its own samples and memory, and need not wait for the others
        blocks = (high + S - 1) // S
        low, high = blocks * rank // size * S, min(high, blocks * (rank + 1) // size * S)
    work = Workspace(pointer(memory, 0 if split else rank * tables.regions[END] * unit), capacity)
    team = Team(rank if split else 0, size if split else 1, pointer(barrier, 0))
    for start in range(low, high, unit):
        part, count = Samples(X, by_sample, view(order, start, order.shape[0] - start)), min(unit, high - start)
        all_blocks = INT_ZERO, (count + S - 1) // S
        if team.rank == 0:
            _gather(tables, work, part, targets, count)
        if not wait(team):
            return
        counters = DropoutCounters(PREDICTION, NO_SEED, INT_ZERO, start)
        if not forward(tables, pointer(theta, 0), work, all_blocks, team, counters, INT_ZERO):
            return
        if team.rank == 0:
            if losses.shape[0] > 0:
                losses_and_deltas(tables, work, all_blocks, INT_ZERO, INT_ONE, function)
            _write(tables, work, all_blocks, order[start], results)
        if not wait(team):
            return


@inline_source
def _gather(tables, work, samples, targets, m):
    """Gather the first m samples and, if losses are computed, their targets."""
    S = block(work.memory)
    regions, unit, blocks = tables.regions, work.capacity * S, (INT_ZERO, (m + S - 1) // S)
    gather(samples, m, work, regions[X_BLOCKS] * unit, regions[X_PANELS] * unit, blocks, PREDICTION)
    if targets.weights.shape[0] > 0:
        y, rows = regions[TARGETS] * unit, regions[SAMPLE_ROWS] * unit
        gather_targets(targets, 1.0, samples.order, m, work.memory, y, rows, blocks)


@jit
def _write(tables, work, blocks, start, results):
    """Copy the outputs and losses of a range of blocks to `results`; block 0 begins at sample `start`."""
    layers, memory = tables.layers, work.memory
    out, losses = results
    S = block(memory)
    unit = work.capacity * S
    k, samples = out.shape
    region = layers[layers.shape[0] - 1][A] * unit
    for at in range(blocks[0], blocks[1]):
        first = start + at * S
        count = min(S, samples - first)
        outputs = matrix(memory, region + at * padded(k, memory) * S, k, S)
        for i in range(k):
            row = out[i]
            for s in range(count):
                row[first + s] = outputs[i, s]
        if losses.shape[0] > 0:
            block_losses = view(memory, tables.regions[SAMPLE_ROWS] * unit + (at * 2 + LOSSES) * S, S)
            for s in range(count):
                losses[0, first + s] = block_losses[s]


@entry("prediction of one sample")
def predict_one(x, out, layers, theta_address, work_address, stride):
    """Write the output for one sample x, shape (n[0],), to `out`, shape (k, 1).

    The workspace has memory for two vectors for each layer, `stride` elements apart. Arrays that stay the same between
    calls are passed by address, since passing an array takes longer than computing a small layer.
    """
    theta, work = pointer_to(theta_address, x), pointer_to(work_address, x)
    A_prev = pointer(x, 0)
    for layer in range(layers.shape[0]):
        row = layers[layer]
        if row[KIND] >= COPY:  # the first layer: all of its rows write to one vector
            embed(row, theta, pointer(x, 0), 0, work, 0, INT_ONE)
            A_prev = work
            continue
        z, code = pointer(work, 2 * layer * stride), row[ACTIVATION]
        result = z if code in (IDENTITY, IN_PLACE) else pointer(z, stride)
        if row[KIND] == DENSE:
            _multiply_vector(theta, DenseLayer(row[W], row[B], row[OUTPUTS], row[INPUTS]), A_prev, z)
            if code != IDENTITY:
                activate(row, z, 0, 0 if code == IN_PLACE else stride, row[OUTPUTS], INT_ONE)
        elif row[KIND] == BY_FEATURE:
            compute_by_feature(row, theta, address(A_prev, 0), address(result, 0), INT_ONE)
        elif row[KIND] == BATCH_NORM:
            one, rows = (INT_ZERO, INT_ONE), (INT_ZERO, row[OUTPUTS])
            layer_of_row = batch_norm_layer(row, Workspace(z, INT_ZERO))
            normalize_by_running_statistics(theta, layer_of_row, A_prev, 0, result, one, rows, INT_ONE)
        else:
            source = row[SOURCE]
            of_source = pointer(x, 0)
            if source >= 0:
                apart = layers[source, ACTIVATION] != IDENTITY and layers[source, ACTIVATION] != IN_PLACE
                of_source = pointer(work, 2 * source * stride + (stride if apart else 0))
                if layers[source, KIND] >= COPY:
                    of_source = work
            _add_vectors(A_prev, of_source, result, row[OUTPUTS])
        A_prev = result
    A = view(A_prev, 0, out.shape[0])
    for i in range(out.shape[0]):
        out[i, 0] = A[i]


@inline_source
def _add_vectors(x, y, out, n):
    """Write ``out = x + y``."""
    a, b, c = view(x, 0, n), view(y, 0, n), view(out, 0, n)
    for i in range(n):
        c[i] = a[i] + b[i]


@inline_source
def _multiply_vector(theta, layer, A_prev, z):
    """Write ``z = W a_prev + b`` for one sample."""
    w, b, n, n_prev = layer
    lanes = block(theta) // 2
    whole = n_prev // lanes
    i = 0
    while i + 8 <= n:
        dots8(theta, w + i * n_prev, n_prev, A_prev, 0, whole, z, i, b + i)
        i += 8
    while i < n:
        dots1(theta, w + i * n_prev, n_prev, A_prev, 0, whole, z, i, b + i)
        i += 1
    if whole * lanes < n_prev:
        rest = n_prev - whole * lanes
        last, Z = view(A_prev, whole * lanes, rest), view(z, 0, n)
        for i in range(n):
            weights = view(theta, w + i * n_prev + whole * lanes, rest)
            for p in range(rest):
                Z[i] += weights[p] * last[p]
