"""Checks of the kernels for predictions, kernels/inference.cu, see cuda_checks.py."""

from collections.abc import Callable
from itertools import pairwise
from math import fsum
from typing import Any

import numpy as np
from cuda_checks import (
    ELEMENTWISE,
    PROCESSORS,
    apply,
    assert_within,
    exact,
    launch,
    launch_in_all_orders,
    lowered,
    place,
)
from cuda_shim import Host

from deepnotes.backends.bounds import Bounds
from deepnotes_cupy.geometry import grid
from deepnotes_cupy.lowering import DenseRow
from deepnotes_cupy.small_networks import FILE, IDENTITY, SAMPLES, Program, Table, program_of, tabulate
from deepnotes_cupy.sources import codes, constant

NETWORKS = [
    ([3, 5], ["identity"], 1),
    ([4, 16, 16, 2], ["tanh", "leaky_relu", "sigmoid"], 131),
    ([7, 33, 18, 70, 3], ["sigmoid", "tanh", "softmax", "relu"], 150),
    ([130, 2], ["softmax"], 77),
    ([9, 140, 40], ["gelu", "softplus"], 20),
    ([5, 6, 7, 8, 9, 10], ["elu", "gelu_tanh", "silu", "exp", "relu"], 300),
]
"""The sizes of the layers, their activations, and the number of samples."""


def whole_networks(host: Host) -> None:
    """``predict_resident``: any layers, X in both memory layouts, several tiles per block, and without the last b."""
    dtype, rng, ops = host.dtype, np.random.default_rng(20), Bounds(host.dtype).ops
    for number, (sizes, names, m) in enumerate(NETWORKS):
        for samples in SAMPLES:
            theta = place(rng.normal(0, 0.5, sum((a + 1) * b for a, b in pairwise(sizes))), dtype)
            X, by_sample, logits = place(rng.normal(size=(m, sizes[0])), dtype, number % 2), samples == 64, number == 1
            table, program, rows = _table(sizes, names, samples, dtype)
            if logits:
                fields = codes("Entry", FILE)
                table.entries[-1][[fields["b_at"], fields["code"]]] = -1, IDENTITY
            out = place(np.full((m, sizes[-1]), 7.0), dtype)
            arguments = (
                X if by_sample else place(X.T, dtype), theta, table.entries.reshape(-1), program.options, out,
                len(names), table.parameters, table.rows, samples, m, int(by_sample),
            )  # fmt: skip
            programs = host.of(program.kernel)
            launch_in_all_orders(programs, "predict_resident", (PROCESSORS, 1, 1), 256, *arguments, shared=table.shared)
            A = exact(dtype, X)
            for row, name in zip(rows, names, strict=True):
                W, b = theta[row.W].reshape(row.n, row.n_prev), theta[row.b]
                last = row is rows[-1]
                A = _exact_column(ops, W, dtype) @ A if last and logits else ops.linear(
                    _exact_column(ops, W, dtype), A, _exact_column(ops, b.reshape(-1, 1), dtype)
                )  # fmt: skip
                A = A if name == "identity" or (last and logits) else apply(ops, name, A)
            assert_within(out.T, A, f"{sizes}, {names}, {m} samples, {samples} at a time")


def few_samples(host: Host) -> None:
    """``dense_few``: a layer for up to FEW samples, with and without b, for packs and for single numbers."""
    dtype, rng, ops = host.dtype, np.random.default_rng(21), Bounds(host.dtype).ops
    for number, name in enumerate(ELEMENTWISE):
        m, shift = number % constant("FEW") + 1, number % 3 == 2
        n_prev, n = [(64, 10), (33, 5), (300, 40), (4, 1)][number % 4]
        X, W, b = (place(rng.normal(size=s), dtype, int(shift)) for s in ((m, n_prev), (n, n_prev), (n, 1)))
        A = place(np.full((m, n), 7.0), dtype)
        bias = None if number == 4 else b
        launch(host, lowered(name, dtype).few or "", n, 1, X, W, bias, A, n_prev, n, m)
        Z = _exact_column(ops, W, dtype) @ exact(dtype, X)
        Z = Z if bias is None else Z + _exact_column(ops, b, dtype)
        assert_within(A.T, Z if name == "identity" else apply(ops, name, Z), f"{name}, {m} samples, {n_prev} inputs")


def special_numbers_stay_in_their_samples(host: Host) -> None:
    """NaN or infinity in a sample leaves the others as they are, and relu turns minus infinity into 0."""
    dtype, rng = host.dtype, np.random.default_rng(22)
    sizes, names, m = [6, 9, 3], ["relu", "identity"], 70
    theta = place(abs(rng.normal(size=(6 + 1) * 9 + (9 + 1) * 3)), dtype)
    X = place(rng.normal(size=(m, 6)), dtype)
    table, program, _ = _table(sizes, names, 64, dtype)
    results = []
    for values in ((), (np.nan, np.inf, -np.inf)):
        X[[3, 20, 50][: len(values)], 2] = values
        out = place(np.full((m, 3), 7.0), dtype)
        arguments = X, theta, table.entries.reshape(-1), program.options, out, 2, table.parameters, table.rows, 64
        programs = host.of(program.kernel)
        launch_in_all_orders(programs, "predict_resident", (1, 1, 1), 256, *arguments, m, 1, shared=table.shared)
        results.append(out)
    before, after = results
    assert np.isnan(after[3]).all()
    assert (after[20] == np.inf).all()
    np.testing.assert_array_equal(after[50], theta[-3:])  # b of the last layer
    others = np.delete(np.arange(m), [3, 20, 50])
    np.testing.assert_array_equal(after[others], before[others])


def _table(sizes: list[int], names: list[str], samples: int, dtype: str) -> tuple[Table, Program, list[DenseRow]]:
    """Return the table of a network, the kernel, and the layers."""
    W_at, b_at, rows = 0, sum(a * b for a, b in pairwise(sizes)), []
    for number, (n_prev, n, name) in enumerate(zip(sizes, sizes[1:], names, strict=False), 1):
        W, b = slice(W_at, W_at + n_prev * n), slice(b_at, b_at + n)
        rows.append(DenseRow(number, n_prev, n, W, b, lowered(name, dtype)))
        W_at, b_at = W.stop, b.stop
    program = program_of(rows, dtype)
    return tabulate(program.layers, dtype, samples), program, rows


def _exact_column(ops: Any, x: np.ndarray, dtype: str) -> Any:
    """Return a matrix, unlike `exact` without transposing it, as numbers without error."""
    return exact(dtype, np.ascontiguousarray(x.T))


def weighted_sums(host: Host) -> None:
    """``weighted_sums``: the sums of losses and weights, in double precision, with or without weights."""
    dtype, rng = host.dtype, np.random.default_rng(23)
    for count in (1, 300, 5000):
        x, w = place(rng.normal(size=count), dtype), place(rng.random(count), dtype, 1)
        for weights in (None, w):
            blocks, threads = grid("weighted_sums", count, dtype=dtype, processors=PROCESSORS)
            partial = np.full(2 * blocks[0], 7.0)
            launch_in_all_orders(host, "weighted_sums", blocks, threads, x, weights, partial, count)
            exact_w = np.ones(count) if weights is None else w.astype(np.float64)
            sums = fsum(x.astype(np.float64) * exact_w), fsum(exact_w)
            np.testing.assert_allclose(partial.reshape(-1, 2).sum(0), sums, rtol=1e-13, atol=1e-13)


INFERENCE_CHECKS: dict[str, Callable[[Host], None]] = {
    f.__name__: f for f in (whole_networks, few_samples, special_numbers_stay_in_their_samples, weighted_sums)
}
