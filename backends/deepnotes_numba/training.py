"""Training on a chunk of mini-batches in one compiled call: for each batch, gather, gradient, clipping, update."""

from math import isfinite, sqrt

import numpy as np

from deepnotes_numba.arguments import (
    Batches,
    Buffers,
    DropoutCounters,
    LossFunction,
    Objective,
    Optimizer,
    Samples,
    Tables,
    Targets,
    Team,
    Training,
    Workspace,
)
from deepnotes_numba.barrier import wait
from deepnotes_numba.batches import add, divisor, gather, gather_targets
from deepnotes_numba.compiling import entry, inline_source, jit
from deepnotes_numba.interpreter import (
    BATCH_NORM,
    BY_FEATURE,
    CATEGORIES,
    DENSE,
    EMBEDDING,
    END,
    INPUTS,
    KIND,
    LOSSES,
    OUTPUTS,
    PANELS,
    PARAMETERS,
    SAMPLE_ROWS,
    SIZE,
    TARGETS,
    X_BLOCKS,
    X_PANELS,
    B,
    W,
    deltas,
    forward,
    gradient,
    losses_and_deltas,
)
from deepnotes_numba.products import INT_ZERO, share
from deepnotes_numba.vectors import address, block, invoke, matrix_at, pointer, view, view_matrix, view_vector

TRAINING = np.bool_(True)
"""A variable, because Numba compiles separate functions for literals."""


@entry("training")
def train(team, tables, buffers, workspace, data, batches, objective, optimizer):
    """Train on consecutive batches, add up their losses and weights, and return the number of updates done.

    Training stops before the first update whose cost or gradient is not finite, or so large that the update may
    overflow (beyond the limits `optimizer.safe_step` and `optimizer.safe_norm`). All threads of a team return the same
    number: that of the first update not made.

    Parameters
    ----------
    team : tuple
        The fields of :class:`Team`, with the memory of the barrier as an array.
    tables : tuple
        The fields of :class:`Tables`.
    buffers : tuple
        The fields of :class:`Buffers` except the last, as arrays, and the sums of squares (see `gradient`). `errors` is
        empty if no sum has several parts.
    workspace : tuple
        The fields of :class:`Workspace`, with the memory as an array, and whether threads share the rows of each array.
    data : tuple
        The address and shape of X, whether X is laid out by sample, and the fields of :class:`Targets`.
    batches, objective, optimizer : tuple
        The fields of :class:`Batches`, :class:`Objective` and :class:`Optimizer`.
    """
    batches, objective, optimizer = Batches(*batches), Objective(*objective), Optimizer(*optimizer)
    place, shape, by_sample, Y, weights, weighted = data
    theta, weights = buffers[0], view_matrix(weights)
    order, rates, scalars = view_vector(batches.order), view_vector(batches.rates), view_matrix(batches.scalars)
    X, parameters = matrix_at(place, shape, theta), theta.shape[0]
    call = _prepare(team, tables, buffers, workspace, Targets(view_matrix(Y), weights, weighted), objective)
    sums, updates = view_matrix(batches.sums), (batches.per_epoch + batches.size - 1) // batches.size
    for update in range(batches.first, batches.end):
        epoch = update // updates
        start = epoch * batches.per_epoch + (update - epoch * updates) * batches.size
        samples = Samples(X, by_sample, view(order, start, order.shape[0] - start))
        m = min(batches.size, (epoch + 1) * batches.per_epoch - start)
        total = divisor(weights, weighted and objective.weighted_mean, view(samples.order, 0, m))
        shards = batches.whole / m if batches.whole > 0 else 1.0  # how many of this size the batch has
        divisor_of_penalties = shards * total if objective.share_l2 and total > 0 else shards
        penalties = objective.l1 / divisor_of_penalties, objective.l2 / divisor_of_penalties
        total *= shards
        counters = DropoutCounters(TRAINING, batches.seed, batches.step + update, batches.first_sample)
        complete, cost = _differentiate(call, samples, m, total / objective.scale, penalties, counters, 1 / shards)
        if not complete:
            return update
        square, penalty = _total_squares(call.squares)
        cost *= objective.reported_scale / objective.scale
        if objective.share_l2:
            cost += penalty
        if call.team.rank == 0:
            sums[epoch, 2] = cost
        if optimizer.kernel == 0:
            return update
        norm = sqrt(square)
        clipping = optimizer.clip_norm / norm if 0 < optimizer.clip_norm < norm else 1.0
        if not _is_safe(cost, rates[update] * max(norm, 1.0), norm * clipping, optimizer):
            return update
        _update(call, optimizer, address(scalars, update), rates.shape[0], clipping, parameters)
        if not wait(call.team):
            return update
        if call.team.rank == 0:
            sums[epoch, 0] += cost * m
            sums[epoch, 1] += m
    return batches.end


@inline_source
def _prepare(team, tables, buffers, workspace, targets, objective):
    """Return a :class:`Training` that holds pointers, and views without reference counts, instead of arrays."""
    rank, size, barrier = team
    theta, g, errors, squares = buffers
    memory, capacity, split = workspace
    layers, rates, regions = tables
    if split and rank > 0:
        network = _with_own_samples(Tables(layers, rates, regions), rank)
    else:
        network = Tables(view_matrix(layers), view_vector(rates), view_vector(regions))
    pointers = Buffers(pointer(theta, 0), pointer(g, 0), pointer(errors, 0), errors.shape[0] > 0)
    return Training(
        Team(rank, size, pointer(barrier, 0)), network, pointers, view_vector(squares),
        Workspace(pointer(memory, 0), capacity), split, targets, objective,
    )  # fmt: skip


@jit
def _with_own_samples(tables, rank):
    """Return the tables for a thread that gathers the samples into its own regions, which follow all other regions.

    Threads that share the rows of each array all read all samples. Gathering the samples again takes less time than
    reading them from another core's cache.
    """
    layers, regions = tables.layers.copy(), tables.regions.copy()
    width = regions[X_PANELS] - regions[X_BLOCKS]
    regions[X_BLOCKS] = regions[END] + 2 * (rank - 1) * width
    regions[X_PANELS] = regions[X_BLOCKS] + width
    if layers[0, KIND] == DENSE:
        layers[0, PANELS] = regions[X_PANELS]
    return Tables(layers, tables.rates, regions)


@inline_source
def _differentiate(call, samples, m, total, penalties, counters, of_batch):
    """Compute the gradient for a batch, the first m samples, in parts if the workspace cannot hold all samples.

    `total` is the divisor of the losses, and `of_batch` is 1, or the part of the batch that a shard is. Return whether
    no thread has failed, and the sum of the losses.
    """
    work, memory = call.work, call.work.memory
    S = block(memory)
    unit = work.capacity * S
    cost = rest = 0.0
    for start in range(0, m, unit):
        count, order = min(unit, m - start), view(samples.order, start, samples.order.shape[0] - start)
        part = Samples(samples.X, samples.by_sample, order)
        part_counters = DropoutCounters(counters.training, counters.seed, counters.step, counters.first_sample + start)
        if not _run_network(call, part, count, total, part_counters):
            return False, cost
        for at in range((count + S - 1) // S):
            losses = view(memory, call.tables.regions[SAMPLE_ROWS] * unit + (at * 2 + LOSSES) * S, S)
            cost, rest = add(cost, rest, _sum(losses))
        stage = start == 0, start + unit >= m, of_batch
        gradient(call.tables, call.buffers, call.squares, work, count, call.team, penalties, stage)
        if not wait(call.team):
            return False, cost
    return True, cost + rest


@inline_source
def _run_network(call, samples, m, total, counters):
    """Compute the losses of the first m samples and dZ of all layers; return False if a thread has failed."""
    tables, work, team, loss = call.tables, call.work, call.team, call.objective
    S = block(work.memory)
    unit = work.capacity * S
    blocks = (m + S - 1) // S
    own_blocks = blocks * team.rank // team.size, blocks * (team.rank + 1) // team.size
    blocks_to_compute = (INT_ZERO, blocks) if call.split else own_blocks
    inputs, panels = tables.regions[X_BLOCKS] * unit, tables.regions[X_PANELS] * unit
    gather(samples, m, work, inputs, panels, blocks_to_compute, TRAINING)
    targets, rows = tables.regions[TARGETS] * unit, tables.regions[SAMPLE_ROWS] * unit
    gather_targets(call.targets, total, samples.order, m, work.memory, targets, rows, own_blocks)
    partners = Team(team.rank if call.split else 0, team.size if call.split else 1, team.barrier)
    if not forward(tables, call.buffers.theta, work, blocks_to_compute, partners, counters, m):
        return False
    function = LossFunction(loss.class_indices, loss.kernel, loss.constants)
    losses_and_deltas(tables, work, blocks_to_compute, partners.rank, partners.size, function)
    if not wait(partners):
        return False
    if not deltas(tables, call.buffers, work, blocks_to_compute, partners, loss.fused, m):
        return False
    return wait(team)


@inline_source
def _total_squares(squares):
    """Return the sum of squares of the gradient, and the penalties."""
    half = squares.shape[0] // 2
    square = penalty = 0.0
    for i in range(half):
        square += squares[i]
        penalty += squares[half + i]
    return square, penalty


@inline_source
def _is_safe(cost, step, norm, optimizer):
    """Return whether an update certainly cannot overflow: False if a number is NaN."""
    return isfinite(cost) and step < optimizer.safe_step and norm < optimizer.safe_norm


@inline_source
def _update(call, optimizer, scalars, stride, scale, parameters):
    """Update this thread's rows of all layers. The scalars begin at the address `scalars`, `stride` numbers apart."""
    team, buffers = call.team, call.buffers
    if team.size == 1:
        _run_update(buffers, optimizer, INT_ZERO, optimizer.decaying, scalars, stride, 1.0, scale)
        rest = optimizer.trained - optimizer.decaying
        _run_update(buffers, optimizer, optimizer.decaying, rest, scalars, stride, 0.0, scale)
        if parameters > optimizer.trained:
            rest = parameters - optimizer.trained
            _update_statistics(buffers, optimizer, optimizer.trained, rest, scalars, stride)
        return
    for layer in range(call.tables.layers.shape[0]):
        row = call.tables.layers[layer]
        if row[KIND] == DENSE:
            low, high = share(row[OUTPUTS], team.rank, team.size)
            at, count = row[W] + low * row[INPUTS], (high - low) * row[INPUTS]
            _run_update(buffers, optimizer, at, count, scalars, stride, 1.0, scale)
            _run_update(buffers, optimizer, row[B] + low, high - low, scalars, stride, 0.0, scale)
        elif row[KIND] == EMBEDDING:
            low, high = share(row[CATEGORIES], team.rank, team.size)
            at, count = row[W] + low * row[SIZE], (high - low) * row[SIZE]
            _run_update(buffers, optimizer, at, count, scalars, stride, 1.0, scale)
        elif row[KIND] == BY_FEATURE or row[KIND] == BATCH_NORM:
            low, high = share(row[OUTPUTS], team.rank, team.size)
            for i in range(row[PARAMETERS]):
                at = row[B] + i * row[OUTPUTS] + low
                _run_update(buffers, optimizer, at, high - low, scalars, stride, 0.0, scale)
            if row[KIND] == BATCH_NORM:
                for i in range(2):
                    at = row[W] + i * row[OUTPUTS] + low
                    _update_statistics(buffers, optimizer, at, high - low, scalars, stride)


@jit
def _run_update(buffers, optimizer, at, n, scalars, stride, decays, scale):
    """Run the optimizer's kernel on a range of parameters, all of which decay, or none."""
    theta, g = address(buffers.theta, 0), address(buffers.gradient, 0)
    arguments = theta, g, optimizer.slots, at, n, scalars, stride, optimizer.constants, decays, scale
    invoke(optimizer.kernel, arguments)


@jit
def _update_statistics(buffers, optimizer, at, n, scalars, stride):
    """Run the optimizer's kernel for statistics, to which neither decay nor clipping applies, on a range of them."""
    theta, g = address(buffers.theta, 0), address(buffers.gradient, 0)
    arguments = theta, g, optimizer.slots, at, n, scalars, stride, optimizer.statistics_constants, 0.0, 1.0
    invoke(optimizer.statistics_kernel, arguments)


@jit
def _sum(x):
    """Return the sum of a row of a block, computed in four parts so that additions do not wait for each other."""
    a = b = c = d = 0.0
    for s in range(0, x.shape[0], 4):
        a += x[s]
        b += x[s + 1]
        c += x[s + 2]
        d += x[s + 3]
    return (a + b) + (c + d)
