"""One compiled function that interprets any plan of the library's own parts: it is compiled once for a dtype.

A network is a table of integers, one row for each layer, and an option for each. All buffers are slices of one
workspace. Samples are columns.
"""

import numpy as np

from deepnotes_numba.activations import NEEDS_Z, activate, backward
from deepnotes_numba.compiling import jit
from deepnotes_numba.losses import SIGMOID_FUSED, loss_and_delta
from deepnotes_numba.masks import dropout
from deepnotes_numba.products import product, product_transposed_left, product_transposed_right

DENSE, DROPOUT = 0, 1
KIND, INPUTS, OUTPUTS, W, B, ACTIVATION, NUMBER, Z_AT, A_AT, D_AT = range(10)
"""Columns of the table of layers; the last three say where Z, A and dA (then dZ) begin in the workspace, per sample."""


@jit
def forward(layers, options, theta, work, m, seed, step):
    """Run all layers over m samples, whose inputs lie at the beginning of the workspace, shape (n[0], m)."""
    before = 0
    for layer in range(layers.shape[0]):
        row = layers[layer]
        n_prev, n = row[INPUTS], row[OUTPUTS]
        A_prev = work[before * m : (before + n_prev) * m].reshape(n_prev, m)
        A = work[row[A_AT] * m : (row[A_AT] + n) * m].reshape(n, m)
        if row[KIND] == DENSE:
            Z = work[row[Z_AT] * m : (row[Z_AT] + n) * m].reshape(n, m)
            product(theta[row[W] : row[W] + n * n_prev].reshape(n, n_prev), A_prev, Z)
            activate(row[ACTIVATION], options[layer], Z, theta[row[B] : row[B] + n], A, row[Z_AT] == row[A_AT])
        else:
            mask = work[row[Z_AT] * m : (row[Z_AT] + n) * m].reshape(n, m)
            dropout(A_prev, options[layer], seed, step, row[NUMBER], A, mask)
        before = row[A_AT]


@jit
def gradient(layers, options, theta, g, work, Y, labelled, c, loss, delta, seed, step):
    """Write the gradient of ``Σ c L`` over a batch to g, and return the sum; c, (m,), is each sample's share."""
    m = c.shape[0]
    forward(layers, options, theta, work, m, seed, step)
    last = layers.shape[0] - 1
    for layer in range(last, -1, -1):
        row = layers[layer]
        n_prev, n = row[INPUTS], row[OUTPUTS]
        before = layers[layer - 1][A_AT] if layer > 0 else 0
        A_prev = work[before * m : (before + n_prev) * m].reshape(n_prev, m)
        Z = work[row[Z_AT] * m : (row[Z_AT] + n) * m].reshape(n, m)
        A = work[row[A_AT] * m : (row[A_AT] + n) * m].reshape(n, m)
        D = work[row[D_AT] * m : (row[D_AT] + n) * m].reshape(n, m)
        code = row[ACTIVATION]
        if layer == last:
            total = loss_and_delta(loss, delta, Z, A, Y, labelled, c, D)
            if loss >= SIGMOID_FUSED:
                code = 0  # dZ = A - Y is there already: N11
        if layer > 0:
            D_prev = work[layers[layer - 1][D_AT] * m : (layers[layer - 1][D_AT] + n_prev) * m].reshape(n_prev, m)
        else:
            D_prev = A_prev  # nobody asks for the derivative by the inputs
        if row[KIND] == DROPOUT:
            if layer > 0:
                for i in range(n):
                    d, f, p = D[i], Z[i], D_prev[i]
                    for s in range(m):
                        p[s] = d[s] * f[s]
            continue
        backward(code, options[layer], D, Z, A, g[row[B] : row[B] + n])
        weights = row[W]
        product_transposed_right(D, A_prev, g[weights : weights + n * n_prev].reshape(n, n_prev))
        if layer > 0:
            product_transposed_left(theta[weights : weights + n * n_prev].reshape(n, n_prev), D, D_prev)
    return total


def workspace(rows: np.ndarray) -> int:
    """Fill the last columns of a table of layers, and return the elements of workspace per sample.

    Where the backward form of an activation reads A alone, and for nothing but the fused losses, Z and A share memory.
    """
    at = rows[0, INPUTS]
    last = len(rows) - 1
    for layer, row in enumerate(rows):
        n = row[OUTPUTS]
        row[Z_AT] = at
        at += n
        shared = row[KIND] == DENSE and not NEEDS_Z[row[ACTIVATION]] and layer != last
        row[A_AT] = row[Z_AT] if shared else at
        at += 0 if shared else n
        row[D_AT] = at
        at += n
    return int(at)
