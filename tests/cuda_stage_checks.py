"""Checks of the stages, kernels/stages.cuh, see cuda_checks.py."""

from collections.abc import Callable

import numpy as np
from cuda_checks import ELEMENTWISE, apply, assert_within, exact, launch, lowered, place
from cuda_shim import Host

from deepnotes.backends.bounds import Bounds
from deepnotes_cupy.geometry import stage_tiles
from deepnotes_cupy.sources import Launch

SHAPES = [
    (1, 1, 1, 0),
    (3, 2, 5, 1),
    (4, 16, 33, 0),
    (37, 19, 70, 0),
    (64, 40, 32, 1),
    (130, 33, 9, 0),
    (300, 12, 65, 0),
]
"""The terms of a sum, the results of a sample, the samples, and the offset of arrays from a 16-byte boundary."""


def forward_stages(host: Host) -> None:
    """``forward_stage``: Z (N2) and A (N3), with and without b and Z, for any shape, alignment and number of tiles."""
    dtype, rng, ops = host.dtype, np.random.default_rng(30), Bounds(host.dtype).ops
    for number, name in enumerate(ELEMENTWISE):
        for n_prev, n, m, shift in SHAPES if name == "identity" else [SHAPES[number % len(SHAPES)]]:
            X, W, b = (place(rng.normal(size=s), dtype, shift) for s in ((m, n_prev), (n, n_prev), (n, 1)))
            Z, A = (place(np.full((m, n), 7.0), dtype) for _ in range(2))
            bias, kept = (None, Z) if number % 3 == 1 else (b, None if number % 3 == 2 else Z)
            launch(host, _stages(name, dtype)[0], n, m, X, W, bias, kept, A, n_prev, n, m)
            product = exact(dtype, np.ascontiguousarray(W.T)) @ exact(dtype, X)
            expected = product if bias is None else product + exact(dtype, b.reshape(1, -1))
            label = f"{name}, {n_prev} to {n} neurons, {m} samples"
            if kept is not None:
                assert_within(Z.T, expected, f"Z of {label}")
            assert_within(A.T, expected if name == "identity" else apply(ops, name, expected), label)


def backward_stages(host: Host) -> None:
    """``backward_stage``: dZ of the layer before (N15, N12), and its mean over the samples (N14)."""
    dtype, rng = host.dtype, np.random.default_rng(31)
    for number, name in enumerate(ELEMENTWISE):
        for n_next, n, m, shift in SHAPES if name == "identity" else [SHAPES[number % len(SHAPES)]]:
            bounds = Bounds(dtype)
            D, W, Z = (place(rng.normal(size=s), dtype, shift) for s in ((m, n_next), (n_next, n), (m, n)))
            bounded_A = apply(bounds.ops, name, exact(dtype, Z))
            A = place(np.asarray(bounded_A.value, dtype).T, dtype)
            dZ, count, g = place(np.full((m, n), 7.0), dtype), stage_tiles(m)[1], lowered(name, dtype)
            partial = place(np.full((count, n), 7.0), dtype)
            operands = D, W, Z if g.needs_Z else None, A if g.needs_A else None
            launch(host, _stages(name, dtype)[1], n, m, *operands, dZ, partial, n_next, n, m, 1 / m)
            dA = exact(dtype, W) @ exact(dtype, D)
            expected = apply(bounds.ops, f"{name}_backward", dA, exact(dtype, Z), bounded_A)
            label = f"{name}, {n_next} to {n} neurons, {m} samples"
            assert_within(dZ.T, expected, label)
            assert_within(
                partial.sum(0, dtype=np.float64)[:, None], bounds.ops.bias_gradient(expected), f"db of {label}"
            )


def stages_of_special_numbers(host: Host) -> None:
    """NaN and infinity reach the results that depend on them, and no others, at each end of a tile and of a slice."""
    dtype, rng = host.dtype, np.random.default_rng(32)
    n_prev, n, m = 70, 18, 35
    X, W = place(abs(rng.normal(size=(m, n_prev))), dtype), place(abs(rng.normal(size=(n, n_prev))), dtype)
    results = []
    for values in ((), (np.nan, np.inf, -np.inf)):
        for (j, k), value in zip([(0, 69), (31, 0), (34, 16)], values, strict=False):
            X[j, k] = value
        A = place(np.full((m, n), 7.0), dtype)
        launch(host, _stages("relu", dtype)[0], n, m, X, W, None, None, A, n_prev, n, m)
        D, Z = place(X[:, :n_prev], dtype), place(np.ones((m, n)), dtype)
        dZ, partial = place(np.full((m, n), 7.0), dtype), place(np.full((2, n), 7.0), dtype)
        weights = place(W.T, dtype)
        launch(host, _stages("silu", dtype)[1], n, m, D, weights, Z, None, dZ, partial, n_prev, n, m, 1.0)
        results.append((A, dZ, partial))
    before, after = results
    for x, old, negative in ((after[0], before[0], 0.0), (after[1], before[1], -np.inf)):
        assert np.isnan(x[0]).all()
        assert (x[31] == np.inf).all()
        assert (x[34] == negative).all()
        others = np.delete(np.arange(m), [0, 31, 34])
        np.testing.assert_array_equal(x[others], old[others])
    assert np.isnan(after[2][0]).all()
    assert (after[2][1] == -np.inf).all()


def empty_stages(host: Host) -> None:
    """Nothing is read or written if there are no samples."""
    dtype = host.dtype
    empty, sevens = np.empty((0, 12), dtype), np.full((12, 12), 7.0, dtype)
    forward, backward = _stages("relu", dtype)
    launch(host, forward, 12, 0, empty, sevens, sevens, empty, empty, 12, 12, 0)
    launch(host, backward, 12, 0, empty, sevens, empty, empty, empty, sevens, 12, 12, 0, 1.0)
    assert (sevens == 7).all()


def stages_on_other_grids(host: Host) -> None:
    """The grid does not affect the bits."""
    dtype, rng = host.dtype, np.random.default_rng(33)
    n_prev, n, m = 21, 37, 70
    X, W, Z = (place(rng.normal(size=s), dtype) for s in ((m, n_prev), (n, n_prev), (m, n)))
    weights, results = place(W.T, dtype), []
    for blocks in ((3, 3), (1, 1), (2, 1), (1, 2), (5, 7)):
        A, D, dZ, partial = (place(np.full(s, 7.0), dtype) for s in ((m, n), (m, n_prev), (m, n), (3, n)))
        D[...] = X
        forward, backward = (host.of(stage.kernel) for stage in _stages("silu", dtype))
        forward.launch("forward_stage", blocks, 256, X, W, None, None, A, n_prev, n, m)
        backward.launch("backward_stage", blocks, 256, D, weights, Z, None, dZ, partial, n_prev, n, m, 1.0)
        results.append([x.tobytes() for x in (A, dZ, partial)])
    assert all(result == results[0] for result in results)


def _stages(name: str, dtype: str) -> tuple[Launch, Launch]:
    g = lowered(name, dtype)
    assert g.forward_stage is not None
    assert g.backward_stage is not None
    return g.forward_stage, g.backward_stage


STAGE_CHECKS: dict[str, Callable[[Host], None]] = {
    f.__name__: f
    for f in (forward_stages, backward_stages, stages_of_special_numbers, stages_on_other_grids, empty_stages)
}
