"""Prediction inside one compiled call: outputs and losses of many samples, or the output of one."""

from deepnotes_numba.activations import NEEDS_Z, activate, softmax_of
from deepnotes_numba.barrier import wait
from deepnotes_numba.batches import gather, gather_targets
from deepnotes_numba.codes import IDENTITY, SOFTMAX
from deepnotes_numba.compiling import entry, jit
from deepnotes_numba.interpreter import (
    ACTIVATION,
    EACH,
    END,
    INPUTS,
    LOSSES,
    OUTPUTS,
    TARGETS,
    X_AT,
    X_TURNED,
    A,
    B,
    W,
    forward,
    losses_and_deltas,
)
from deepnotes_numba.products import padded
from deepnotes_numba.vectors import block, dots1, dots8, matrix, matrix_at, pointer, pointer_to, view


@entry("prediction")
def predict(
    rank, size, meeting, split, net, theta, work, room, x_address, x_shape, by_sample, order, out, Y, labelled, loss,
    delta, losses,
):  # fmt: skip
    """Write outputs of some samples to `out`, (k, all samples), and, if there is room for them, each sample's loss.

    This is thread number `rank` of `size`. `order` holds the numbers of the samples, which are consecutive; they begin
    and end at whole blocks, but for the last of all samples.
    """
    places = net[2]
    X = matrix_at(x_address, x_shape, theta)
    S = block(work)
    unit = room * S
    samples = order.shape[0]
    low, high, part = 0, samples, (rank, size)
    if not split:  # each thread has its own samples and workspace, and need not wait for others
        blocks = (samples + S - 1) // S
        low, high, part = blocks * rank // size * S, min(samples, blocks * (rank + 1) // size * S), (0, 1)
    work = pointer(work, 0 if split else rank * places[END] * unit)
    theta, meeting = pointer(theta, 0), pointer(meeting, 0)
    for start in range(low, high, unit):
        onwards, count = view(order, start, samples - start), min(unit, high - start)
        every = (0, (count + S - 1) // S)
        if part[0] == 0:
            inputs, turned = places[X_AT] * unit, places[X_TURNED] * unit
            gather(X, by_sample, onwards, count, work, inputs, turned, every, room, False)
            if losses.shape[0] > 0:
                targets, each = places[TARGETS] * unit, places[EACH] * unit
                gather_targets(Y, losses, False, 1.0, onwards, count, work, targets, each, every)
        if not wait(meeting, part[1]):
            return
        if not forward(net, theta, work, every, room, part, meeting, False, 0, 0, start):
            return
        if part[0] == 0:
            if losses.shape[0] > 0:
                losses_and_deltas(net, work, every, room, (0, 1), labelled, loss, delta)
            _write(net, work, room, every, order[start], out, losses)
        if not wait(meeting, part[1]):
            return


@jit
def _write(net, work, room, blocks, start, out, losses):
    """Copy outputs and losses from a range of blocks to where the user sees them, from sample `start` on."""
    layers, _, places = net
    S = block(work)
    unit = room * S
    k, samples = out.shape
    region = layers[layers.shape[0] - 1][A] * unit
    for at in range(blocks[0], blocks[1]):
        first = start + at * S
        count = min(S, samples - first)
        results = matrix(work, region + at * padded(k, work) * S, k, S)
        for i in range(k):
            row = out[i]
            for s in range(count):
                row[first + s] = results[i, s]
        if losses.shape[0] > 0:
            own = view(work, places[EACH] * unit + (at * 4 + LOSSES) * S, S)
            for s in range(count):
                losses[0, first + s] = own[s]


@entry("prediction of one sample")
def predict_one(x, out, layers, options_address, theta_address, work_address, stride):
    """Write the output for one sample, shape (n[0],), to `out`, (k, 1); the workspace has four vectors, `stride` apart.

    Whatever stays the same between calls is passed by address: passing an array takes longer than some layers.
    """
    options, theta, work = pointer_to(options_address, x), pointer_to(theta_address, x), pointer_to(work_address, x)
    A_prev = pointer(x, 0)
    lanes = block(x) // 2
    for layer in range(layers.shape[0]):
        row = layers[layer]
        n_prev, n, w, b, code = row[INPUTS], row[OUTPUTS], row[W], row[B], row[ACTIVATION]
        z = pointer(work, 2 * (layer % 2) * stride)
        whole = n_prev // lanes
        i = 0
        while i + 8 <= n:
            dots8(theta, w + i * n_prev, n_prev, A_prev, 0, whole, z, i, b + i)
            i += 8
        while i < n:
            dots1(theta, w + i * n_prev, n_prev, A_prev, 0, whole, z, i, b + i)
            i += 1
        Z = view(z, 0, n)
        if whole * lanes < n_prev:
            rest = n_prev - whole * lanes
            last = view(A_prev, whole * lanes, rest)
            for i in range(n):
                weights = view(theta, w + i * n_prev + whole * lanes, rest)
                for p in range(rest):
                    Z[i] += weights[p] * last[p]
        if code == SOFTMAX:
            softmax_of(Z)
        elif code != IDENTITY:
            shared = not NEEDS_Z[code]
            z = pointer(z, 0 if shared else stride)
            activate(code, view(options, layer, 1)[0], Z, view(z, 0, n), shared)
        A_prev = z
    A = view(A_prev, 0, out.shape[0])
    for i in range(out.shape[0]):
        out[i, 0] = A[i]
