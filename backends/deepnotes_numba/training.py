"""Train on chunks of mini-batches inside one compiled call: gather, gradient, clip, update, for each batch."""

from math import isfinite, sqrt

from deepnotes_numba.barrier import wait
from deepnotes_numba.batches import gather, gather_targets, plus, total_of
from deepnotes_numba.compiling import entry, jit
from deepnotes_numba.interpreter import (
    DENSE,
    EACH,
    END,
    INPUTS,
    KIND,
    LOSSES,
    OUTPUTS,
    TARGETS,
    TURNED,
    X_AT,
    X_TURNED,
    B,
    W,
    deltas,
    forward,
    gradient,
    losses_and_deltas,
)
from deepnotes_numba.products import share
from deepnotes_numba.updates import update
from deepnotes_numba.vectors import block, matrix_at, pointer, view


@entry("training")
def train(
    rank, size, meeting, split, net, theta, g, lost, first, second, work, squares, room, x_address, x_shape, by_sample,
    Y, w, weighted, labelled, order, batch, rates, loss, delta, optimizer, numbers, scalars, decaying, seed, step, safe,
    sums,
):  # fmt: skip
    """Train on consecutive batches; return `sums` (of losses, of weights) grown, the updates made, and the last cost.

    It stops before the first update whose cost or gradient is not finite, or so large (by the limits `safe` on the step
    and the norm) that the result may not be. This is thread number `rank` of `size`; all of them compute the same
    numbers. The rows of `scalars` hold the values that change from update to update: the optimizer's rate and epsilon,
    the share of θ that decays, and the factor of the gradient.
    """
    if split and rank > 0:
        net = _with_own_samples(net, rank)
    layers, _, places = net
    l2, clip, beta1, beta2, scale, reported_scale, share_l2, weighted_mean = numbers
    X = matrix_at(x_address, x_shape, theta)
    S = block(work)
    unit = room * S
    biases = theta.shape[0] - decaying
    several = lost.shape[0] > 0
    work, theta, g, lost = pointer(work, 0), pointer(theta, 0), pointer(g, 0), pointer(lost, 0)
    first, second, meeting = pointer(first, 0), pointer(second, 0), pointer(meeting, 0)
    loss_sum, weight_sum = sums
    cost = 0.0
    for made in range(rates.shape[0]):
        indices = view(order, made * batch, min(batch, order.shape[0] - made * batch))
        m = indices.shape[0]
        total = total_of(w, weighted and weighted_mean != 0, indices)
        penalty = l2 / total if share_l2 and total > 0 else l2
        cost = rest = 0.0
        for start in range(0, m, unit):  # as many as the workspace has room for
            begin, count = made * batch + start, min(unit, m - start)
            onwards = view(order, begin, order.shape[0] - begin)
            blocks = (count + S - 1) // S
            mine = (blocks * rank // size, blocks * (rank + 1) // size) if size > 1 else (0, blocks)
            taken = (0, blocks) if split else mine
            inputs, turned = places[X_AT] * unit, places[X_TURNED] * unit
            gather(X, by_sample, onwards, count, work, inputs, turned, taken, room, True)
            targets, each = places[TARGETS] * unit, places[EACH] * unit
            gather_targets(Y, w, weighted, total / scale, onwards, count, work, targets, each, mine)
            part = (0, 1)
            if split:
                part, mine = (rank, size), (0, blocks)
            if not forward(net, theta, work, mine, room, part, meeting, True, seed, step + made, start):
                return loss_sum, weight_sum, made, cost
            losses_and_deltas(net, work, mine, room, part, labelled, loss, delta)
            if not wait(meeting, part[1]) or not deltas(net, theta, work, mine, room, part, meeting, loss):
                return loss_sum, weight_sum, made, cost
            if not wait(meeting, size):
                return loss_sum, weight_sum, made, cost
            for at in range(blocks):
                losses = sum_of(view(work, places[EACH] * unit + (at * 4 + LOSSES) * S, S))
                cost, rest = plus(cost, rest, losses)
            gradient(
                net, theta, g, lost, several, work, squares, blocks, room, (rank, size), penalty, start > 0,
                start + unit >= m,
            )  # fmt: skip
            if not wait(meeting, size):
                return loss_sum, weight_sum, made, cost

        square = squared_weights = 0.0
        for i in range(squares.shape[0] // 2):
            square += squares[i]
            squared_weights += squares[squares.shape[0] // 2 + i]
        cost = (cost + rest) * (reported_scale / scale)
        if share_l2:
            cost += 0.5 * penalty * squared_weights
        norm = sqrt(square)
        shrunk = clip / norm if 0 < clip < norm else 1.0
        if not isfinite(cost) or not rates[made] * max(norm, 1.0) < safe[0] or not norm * shrunk < safe[1]:
            return loss_sum, weight_sum, made, cost
        rate, epsilon, decay = scalars[0, made], scalars[1, made], scalars[2, made]
        shrunk *= scalars[3, made]
        for layer in range(layers.shape[0]):
            row = layers[layer]
            low, high = share(row[OUTPUTS], (rank, size))
            at, count, b_at, b_count = row[W] + low * row[INPUTS], (high - low) * row[INPUTS], row[B] + low, high - low
            if size == 1:  # all layers at once
                at, count, b_at, b_count = 0, decaying, decaying, biases
            elif row[KIND] != DENSE:
                continue
            update(optimizer, theta, g, first, second, at, count, shrunk, rate, epsilon, beta1, beta2, decay)
            update(optimizer, theta, g, first, second, b_at, b_count, shrunk, rate, epsilon, beta1, beta2, 0.0)
            if size == 1:
                break
        if not wait(meeting, size):
            return loss_sum, weight_sum, made, cost
        loss_sum += cost * m
        weight_sum += m
    return loss_sum, weight_sum, rates.shape[0], cost


@jit
def sum_of(x):
    """Return the sum of a row of a block, in four parts, so that additions do not wait for each other."""
    a = b = c = d = 0.0
    for s in range(0, x.shape[0], 4):
        a += x[s]
        b += x[s + 1]
        c += x[s + 2]
        d += x[s + 3]
    return (a + b) + (c + d)


@jit
def _with_own_samples(net, rank):
    """Return the tables for a thread that gathers the samples into regions of its own, after all others.

    All threads that split rows read all samples: gathering them again takes less time than reading them from another
    core's cache.
    """
    layers, options, places = net
    layers, places = layers.copy(), places.copy()
    width = places[X_TURNED] - places[X_AT]
    places[X_AT] = places[END] + 2 * (rank - 1) * width
    places[X_TURNED] = places[X_AT] + width
    if layers[0, KIND] == DENSE:
        layers[0, TURNED] = places[X_TURNED]
    return layers, options, places
