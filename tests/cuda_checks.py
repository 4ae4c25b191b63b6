"""Checks of the CUDA kernels on the CPU: functions that launch kernels on a Host and assert that they are correct.

tests/backends/test_cuda_kernels.py runs them on the package's kernels, tests/backends/test_cuda_mutants.py on faulty
ones. Results must agree with the equations: exact results bit for bit, others within their error bounds
(:mod:`deepnotes.backends.bounds`). Arrays have shape (m, n) in C order, one row per sample; the equations get their
transposes.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import fsum
from typing import Any

import numpy as np
from cuda_shim import Host

from deepnotes.backends import ACTIVATIONS, LOSSES, SGD, Activation, Context, Dense, Layout, Loss
from deepnotes.backends.bounds import BoundedArray, Bounds, excess, gamma
from deepnotes.equations import EQUATIONS
from deepnotes.nn.layers import Gate, LayerNorm, PReLU, RMSNorm
from deepnotes_cupy.geometry import chunks, grid
from deepnotes_cupy.lowering import (
    FeatureRow,
    LoweredActivation,
    lower,
    lower_activation,
    lower_loss,
    lower_update,
)
from deepnotes_cupy.sources import Launch, codes
from deepnotes_cupy.sources import control as control_dtype
from deepnotes_cupy.tape import padded

SHAPES = [(1, 1, 0), (1, 70, 0), (4, 3, 0), (10, 37, 0), (12, 5, 0), (12, 5, 1), (33, 19, 0), (132, 9, 0), (300, 70, 0)]
for seed in range(3):
    n, m, shift = np.random.default_rng(seed).integers((1, 1, 0), (200, 80, 4)).tolist()
    SHAPES.append((n, m, shift))
SHAPES += [(4 * (n // 4 + 1), m + 1, 0) for n, m, _ in SHAPES[-2:]]
"""The number of neurons, the number of samples, and the offset of arrays from a 16-byte boundary, in elements."""
PROCESSORS = 2
"""The number of multiprocessors for which grids are computed: small, so that each thread handles several elements."""
OPTIONS = {"leaky_relu": {"slope": 0.3}, "elu": {"alpha": 1.7}, "huber": {"delta": 0.7}}
ROWWISE = ["softmax", "log_softmax"]
ELEMENTWISE = [name for name in ACTIVATIONS if name not in ROWWISE]
FUSED = {"softmax": "softmax_cross_entropy", "sigmoid": "sigmoid_cross_entropy", "exp": "exp_half_poisson_deviance"}
"""The kernel that computes a loss from the logits, by the name of the output activation."""
CONTROL = control_dtype()


def place(values: Any, dtype: str, shift: int = 0) -> np.ndarray:
    """Return a copy of an array that begins `shift` elements after a 16-byte boundary."""
    values = np.asarray(values)
    element_type = np.dtype(dtype)
    raw = np.empty(values.nbytes * element_type.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 16 + shift * element_type.itemsize
    out = raw[start : start + values.size * element_type.itemsize].view(element_type).reshape(values.shape)
    out[...] = values
    return out


def launch(
    host: Host, kernel: str | Launch, n: int, m: int, *arguments: Any, count: int = 1,
    reachable: Sequence[np.ndarray] = (),
) -> None:  # fmt: skip
    """Run a kernel on the grid from geometry.py in every order of threads, and check that the bits are the same.

    `count` is the number of chunks of samples. The arguments of a Launch follow `arguments`.
    """
    if isinstance(kernel, Launch):
        host, arguments, kernel = host.of(kernel.kernel), (*arguments, *kernel.arguments), kernel.kernel.name
    blocks, threads = grid(host.kernels[kernel], n, m, dtype=host.dtype, processors=PROCESSORS, chunks=count)
    launch_in_all_orders(host, kernel, blocks, threads, *arguments, reachable=reachable)


def launch_in_all_orders(
    host: Host,
    kernel: str,
    blocks: tuple[int, ...],
    threads: int,
    *arguments: Any,
    shared: int = 0,
    reachable: Sequence[np.ndarray] = (),
) -> None:
    """Run a kernel on the same arrays in every order of threads and blocks, and check that the bits are the same."""
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    results = []
    for order in host.orders:
        for a, old in zip(arrays, before, strict=True):
            if a.flags.writeable:
                a[...] = old
        host.order = order
        host.launch(kernel, blocks, threads, *arguments, shared=shared, reachable=reachable)
        results.append([a.tobytes() for a in arrays])
    assert results[1:] == results[:-1], f"{kernel}: the result depends on the order of threads"


def assert_within(actual: np.ndarray, expected: BoundedArray, label: str) -> None:
    """Check that each number is within its error bound."""
    assert actual.shape == expected.shape, label
    ratios = excess(actual, expected)
    assert not ratios.size or ratios.max() <= 1, f"{label}: {ratios.max():.3g} times the bound, at {np.argmax(ratios)}"


def source_of(arrays: Sequence[np.ndarray | None], order: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the structure ``Source``; `arrays` are X, Y and w."""
    return np.array([*(0 if x is None else x.ctypes.data for x in (*arrays, order)), batch_size], np.int64)


def lowered(name: str, dtype: str, outputs: int = 2) -> LoweredActivation:
    """Return the kernels of one of the library's activations."""
    return lower_activation(Activation(name, **OPTIONS.get(name, {})), dtype, outputs)


def lowered_loss(name: str, dtype: str, last: str = "identity", outputs: int = 2) -> Launch:
    """Return the kernel of one of the library's losses after a layer with the activation `last`."""
    return lower_loss(Loss(name, **OPTIONS.get(name, {})), Dense(outputs, last), dtype, outputs).launch


def spread(rng: np.random.Generator, m: int, n: int) -> np.ndarray:
    """Return random numbers: most of them moderate, some large, a few zero."""
    x = np.where(rng.random((m, n)) < 0.9, rng.normal(0, 3, (m, n)), rng.uniform(-120, 120, (m, n)))
    return np.where(rng.random((m, n)) < 0.02, rng.choice([0.0, -0.0], (m, n)), x)


def bias_and_activation(host: Host) -> None:
    """``bias_activation``: ``Z + b`` (N2) and ``A = g(Z)`` (N3), with or without bias or activation, and in place."""
    dtype, rng, ops = host.dtype, np.random.default_rng(0), Bounds(host.dtype).ops
    for number, name in enumerate(ELEMENTWISE):
        few_shapes = [SHAPES[number % len(SHAPES)], (12, 9, 0)]
        for n, m, shift in SHAPES if name == "relu" else few_shapes:
            Z, b = place(spread(rng, m, n), dtype, shift), place(rng.normal(size=n), dtype, 1)
            A, before = place(np.full((m, n), 7.0), dtype, shift), Z.copy()
            kernel = lowered(name, dtype).forward
            launch(host, kernel, n, m, Z, b, None if name == "identity" else A, None, 0, n, m)
            assert (before + b == Z).all()
            if name != "identity":
                assert_within(A.T, apply(ops, name, exact(dtype, Z)), f"{name} of {n} neurons, {m} samples")
            with_bias = Z.copy()
            launch(host, kernel, n, m, Z, None, A, None, 0, n, m)
            assert (with_bias == Z).all()
            launch(host, kernel, n, m, Z, None, Z, None, 0, n, m)
            np.testing.assert_array_equal(A, Z)


def exact(dtype: str, x: np.ndarray) -> BoundedArray:
    """Return the transpose of an (m, n) array as numbers without error."""
    return Bounds(dtype).from_numpy(x.T)  # type: ignore[return-value]


def apply(ops: Any, name: str, *arguments: Any) -> BoundedArray:
    return getattr(ops, name)(*arguments, **OPTIONS.get(name.removesuffix("_backward"), {}))


def activation_backward(host: Host) -> None:
    """``activation_backward``: ``dZ = dA * g'`` (N12) and its mean over samples (N14), with one or several chunks."""
    dtype, rng = host.dtype, np.random.default_rng(1)
    for number, name in enumerate(ELEMENTWISE):
        few_shapes = [SHAPES[number % len(SHAPES)], (12, 75, 0)]
        for n, m, shift in SHAPES if name == "identity" else few_shapes:
            bounds = Bounds(dtype)
            Z, D = place(spread(rng, m, n), dtype, shift), place(rng.normal(size=(m, n)), dtype, shift)
            before = D.copy()
            bounded_A = apply(bounds.ops, name, exact(dtype, Z))
            A = place(np.asarray(bounded_A.value, dtype).T, dtype, shift)
            expected = apply(bounds.ops, f"{name}_backward", exact(dtype, D), exact(dtype, Z), bounded_A)
            g, scale = lowered(name, dtype), 1 / m
            operands = [D, Z if g.needs_Z else None, A if g.needs_A else None]
            for rows, count in ((m, 1), (33, -(-m // 33)), chunks(n, m, dtype=dtype, processors=PROCESSORS)):
                D[...] = before
                db = place(np.full(n, 7.0), dtype)
                partial = db if count == 1 else place(np.full((count, n), 7.0), dtype)
                arguments = (*operands, None, 0, 1.0, partial, n, m, rows, scale)
                launch(host, g.backward, n, m, *arguments, count=count)
                label = f"{name} of {n} neurons, {m} samples, {count} chunks"
                assert_within(D.T, expected, label)
                if count > 1:
                    launch(host, "sum_partials", n, 1, partial, db, n, count)
                assert_within(db[:, None], bounds.ops.bias_gradient(expected), f"db, {label}")
            D[...] = before
            launch(host, g.backward, n, m, *operands, None, 0, 1.0, None, n, m, m, scale)
            assert_within(D.T, expected, f"{name} without a bias")


def softmax(host: Host) -> None:
    """``row_activation`` and ``row_backward``, for rows that fit into registers and for longer rows."""
    dtype, rng, ops = host.dtype, np.random.default_rng(2), Bounds(host.dtype).ops
    for (n, m, shift), name in product(SHAPES, ROWWISE):
        g = lowered(name, dtype, n)
        Z, b = place(spread(rng, m, n), dtype, shift), place(rng.normal(size=n), dtype, 1)
        A, before = place(np.full((m, n), 7.0), dtype, shift), Z.copy()
        launch(host, g.forward, n, m, Z, b, A, n, m)
        assert (before + b == Z).all()
        expected = getattr(ops, name)(exact(dtype, Z))
        assert_within(A.T, expected, f"{name} of {n} neurons, {m} samples")
        in_place = place(Z, dtype, shift)
        launch(host, g.forward, n, m, in_place, None, in_place, n, m)
        assert (in_place == A).all()
        D = place(rng.normal(size=(m, n)), dtype, shift)
        before = D.copy()
        launch(host, g.backward, n, m, D, None, A, n, m)
        expected = getattr(ops, f"{name}_backward")(exact(dtype, before), exact(dtype, Z), exact(dtype, A))
        assert_within(D.T, expected, f"the derivative of {name}, {n} neurons, {m} samples")


def weights(rng: np.random.Generator, m: int, dtype: str, kind: str) -> tuple[Any, Any]:
    """Return sample weights of a kind ("none", "some" or "zeros") as an array and as exact factors, or None twice."""
    if kind == "none":
        return None, None
    w = place(np.zeros(m) if kind == "zeros" else rng.random(m) * 3, dtype)
    return w, exact(dtype, w[:, None])


def fused_kernel(name: str, dtype: str, outputs: int) -> Launch:
    """Return the kernel that computes a loss from the logits."""
    loss = next(loss for loss, traits in LOSSES.items() if traits.fused and traits.fused[1] == name)
    return lowered_loss(loss, dtype, LOSSES[loss].fused[0], outputs)  # type: ignore[index]


def cross_entropies(host: Host) -> None:
    """The losses computed from logits (N10, N11): for targets or class indices, with or without weights."""
    dtype, rng, ops = host.dtype, np.random.default_rng(3), Bounds(host.dtype).ops
    kinds = ["none", "some", "zeros"]
    for name, kernel in FUSED.items():
        for number, (n, m, shift) in enumerate(SHAPES):
            indexed, (w, scale) = number % 2, weights(rng, m, dtype, kinds[number % 3])
            classes = rng.integers(0, n, m)
            columns = np.eye(n)[classes] if indexed or name == "softmax" else rng.random((m, n))
            Y = place(classes if indexed else columns, dtype, shift)
            Z, b = place(spread(rng, m, n), dtype, shift), place(rng.normal(size=n), dtype, 1)
            Z[...] = np.minimum(Z, 40) if name == "exp" else Z
            before, L = Z.copy(), place(np.full(m, 7.0), dtype)
            A, D = (place(np.full((m, n), 7.0), dtype, shift) for _ in range(2))
            arguments = (b, Y, indexed, w, None if number == 4 else A, D, None, 0, 1.0, L, n, m)
            launch(host, fused_kernel(kernel, dtype, n), n, m, Z, *arguments)
            assert (before + b == Z).all()
            logits, targets = exact(dtype, Z), exact(dtype, columns.astype(dtype))
            outputs = getattr(ops, name)(logits)
            losses = getattr(ops, kernel)(logits, targets)
            delta = getattr(ops, f"{kernel}_delta")(outputs, targets)
            label = f"{name}, {n} outputs, {m} samples, {kinds[number % 3]} weights"
            if number != 4:
                assert_within(A.T, outputs, f"A of {label}")
            assert_within(L[None], losses if scale is None else losses * scale, f"L of {label}")
            assert_within(D.T, delta if scale is None else delta * scale, f"D of {label}")


def losses(host: Host) -> None:
    """``loss``: all other losses and their derivatives, including the ends of the domain."""
    dtype, rng, ops = host.dtype, np.random.default_rng(4), Bounds(host.dtype).ops
    for name in LOSSES:
        for number, (n, m, shift) in enumerate(SHAPES):
            w, scale = weights(rng, m, dtype, ["none", "some"][number % 2])
            A, columns = rng.random((m, n)), np.round(rng.random((m, n)), 1)
            indexed = int(name == "categorical_cross_entropy" and number % 2)
            classes = rng.integers(0, n, m)
            if name == "categorical_cross_entropy":
                columns = np.eye(n)[classes]
            elif name not in ("binary_cross_entropy", "poisson", "half_poisson_deviance"):
                A, columns = spread(rng, m, n), rng.normal(size=(m, n))
                columns[0] = A[0]
            else:
                A = np.where(rng.random((m, n)) < 0.1, rng.integers(0, 2, (m, n)), A)
            A, Y = place(A, dtype, shift), place(classes if indexed else columns, dtype, shift)
            D, L = place(np.full((m, n), 7.0), dtype, shift), place(np.full(m, 7.0), dtype)
            arguments = (A, None, Y, indexed, w, None, D, None, 0, 1.0, L, n, m)
            launch(host, lowered_loss(name, dtype), n, m, *arguments)
            outputs, targets = exact(dtype, A), exact(dtype, columns.astype(dtype))
            values = apply(ops, name, outputs, targets)
            derivative = getattr(ops, f"{name}_derivative")(outputs, targets, **OPTIONS.get(name, {}))
            label = f"{name}, {n} outputs, {m} samples"
            assert_within(L[None], values if scale is None else values * scale, f"L of {label}")
            assert_within(D.T, derivative if scale is None else derivative * scale, f"dA of {label}")


def nan_and_infinity(host: Host) -> None:
    """NaN or infinity at each position of a row: kernels agree with the equations, and other elements stay finite."""
    dtype = host.dtype
    for name in [*ELEMENTWISE, *ROWWISE]:
        n = 13 if name == "tanh" else 12
        for value in (np.nan, np.inf, -np.inf):
            Z = place(np.tile(np.linspace(-2, 2, n), (n, 1)), dtype)
            np.fill_diagonal(Z, value)
            A, D, ones = place(np.zeros((n, n)), dtype), place(np.ones((n, n)), dtype), place(np.ones((n, n)), dtype)
            g = lowered(name, dtype)
            if name in ROWWISE:
                launch(host, g.forward, n, n, Z, None, A, n, n)
                launch(host, g.backward, n, n, D, None, A, n, n)
            else:
                launch(host, g.forward, n, n, Z, None, A, None, 0, n, n)
                launch(host, g.backward, n, n, D, Z, A, None, 0, 1.0, None, n, n, n, 1.0)
            Z64 = Z.T.astype(np.float64)
            expected = EQUATIONS[name](np, Z64, **OPTIONS.get(name, {}))
            derivatives = EQUATIONS[f"{name}_backward"](np, ones.T, Z64, expected, **OPTIONS.get(name, {}))
            for actual, reference in ((A, expected.T), (D, derivatives.T)):
                assert (np.isnan(actual) == np.isnan(reference)).all(), (name, value)
                assert (actual[np.isinf(reference)] == reference[np.isinf(reference)]).all(), (name, value)
                assert np.isfinite(actual[np.isfinite(reference)]).all(), (name, value)
            assert not np.isnan(value) or np.isnan(np.diagonal(A)).all(), name


def losses_of_nan(host: Host) -> None:
    """Losses agree with the equations on NaN and infinity, and are finite for logits whose difference overflows."""
    dtype = host.dtype
    for value in (np.nan, np.inf, -np.inf):
        for kernel in (*FUSED.values(), *LOSSES):
            Z, Y, L = place(np.ones((3, 5)), dtype), place(np.eye(5)[:3], dtype), place(np.zeros(3), dtype)
            Z[1, 4], A, D = value, place(np.zeros((3, 5)), dtype), place(np.zeros((3, 5)), dtype)
            loss = lowered_loss(kernel, dtype) if kernel in LOSSES else fused_kernel(kernel, dtype, 5)
            outputs = None if kernel in LOSSES else A
            launch(host, loss, 5, 3, Z, None, Y, 0, None, outputs, D, None, 0, 1.0, L, 5, 3)
            expected = EQUATIONS[kernel](np, Z.T, Y.T, **OPTIONS.get(kernel, {}))[0]
            assert (np.isfinite(L) == np.isfinite(expected)).all(), (kernel, value)
            assert (np.isnan(L) == np.isnan(expected)).all(), (kernel, value)
    far = float(np.finfo(dtype).max) / 1.5  # the difference of these logits overflows
    Z, Y, L = place([[far, -far, 0.0]], dtype), place([[1.0, 0.0, 0.0]], dtype), place(np.zeros(1), dtype)
    loss = fused_kernel("softmax_cross_entropy", dtype, 3)
    launch(host, loss, 3, 1, Z, None, Y, 0, None, None, np.zeros_like(Y), None, 0, 1.0, L, 3, 1)
    assert L.tolist() == [0.0]


def gathers(host: Host) -> None:
    """``gather`` copies the samples of the third batch bit for bit, with or without targets and weights."""
    dtype, rng = host.dtype, np.random.default_rng(5)
    for number, (n, m, shift) in enumerate(SHAPES):
        samples, k, size = 2 * m + 3, 1 + number, m + 2
        X, Y, w = rng.normal(size=(samples, n)), rng.normal(size=(samples, k)), rng.random(samples)
        X, Y, w = place(X, dtype, shift), place(Y, dtype), place(w, dtype)
        order = rng.integers(0, samples, 2 * size + m)
        control = np.zeros(1, CONTROL)
        control["updates"] = 2
        outs = [place(np.full(s, 7.0), dtype) for s in ((m, n), (m, k), (m,))]
        sources = [X, Y if number != 1 else None, w if number != 2 else None]
        reachable = [a for a in (*sources, order) if a is not None]
        launch(
            host,
            "gather",
            n,
            m,
            source_of(sources, order, size),
            control,
            0,
            outs[0],
            None,
            0,
            *outs[1:],
            n,
            k,
            m,
            reachable=reachable,
        )
        for out, source in zip(outs, sources, strict=True):
            expected = np.full_like(out, 7.0) if source is None else source[order[2 * size :]]
            assert out.tobytes() == expected.tobytes(), (n, m)


def grids(host: Host) -> None:
    """The grid does not affect the bits: ``activation_backward`` sums over chunks of samples, not blocks of threads."""
    dtype, rng = host.dtype, np.random.default_rng(6)
    n, m = 140, 37
    Z, b = place(spread(rng, m, n), dtype), place(rng.normal(size=n), dtype)
    results = []
    for blocks in ((1, 1), (2, 1), (1, 3), (7, 5)):
        z, A, D, partial = (
            Z.copy(),
            place(np.zeros((m, n)), dtype),
            place(np.ones((m, n)), dtype),
            np.zeros((5, n), dtype),
        )
        silu = host.of(lowered("silu", dtype).forward.kernel)
        silu.launch("bias_activation", blocks, 256, z, b, A, None, 0, n, m)
        silu.launch("activation_backward", blocks, 256, D, z, A, None, 0, 1.0, partial, n, m, 8, 1.0)
        out = place(np.zeros((m, n)), dtype)
        order = np.arange(m)[::-1].copy()
        source = source_of((z, None, None), order, m)
        host.launch("gather", blocks, 256, source, np.zeros(1, CONTROL), 0, out, None, 0, None, None, n, 0, m,
                    reachable=(z, order))  # fmt: skip
        results.append([a.tobytes() for a in (z, A, D, partial, out)])
    assert all(result == results[0] for result in results)


def layers_by_feature(host: Host) -> None:
    """``feature_forward`` and ``feature_backward``: outputs, derivatives and gradients, within the bounds."""
    dtype, rng, ops = host.dtype, np.random.default_rng(10), Bounds(host.dtype).ops
    kinds = (LayerNorm(1.0), RMSNorm(1.0), PReLU(), Gate("silu"))
    for layer, (n, m, shift) in product(kinds, [(1, 5, 0), (3, 7, 1), (12, 9, 0), (70, 5, 1), (300, 3, 0)]):
        inputs = 2 * n if isinstance(layer, Gate) else n
        names = list(layer.parameters(inputs))
        values = place(rng.normal(size=(len(names), n)), dtype, 1)
        X, D = place(rng.normal(size=(m, inputs)), dtype, shift), place(rng.normal(size=(m, n)), dtype)
        layers = [layer, Dense(1)]  # a network has a layer with parameters
        row, _ = lower(layers, Layout(inputs, layers), dtype, training=True)
        assert isinstance(row, FeatureRow)
        A, E = place(np.full((m, n), 7.0), dtype, shift), place(np.full((m, inputs), 7.0), dtype, shift)
        T = place(np.full((len(names), m, n), 7.0), dtype, shift)
        launch(host, row.forward, n, m, X, values, A, n, m)
        launch(host, row.backward, n, m, D, X, values, E, T, m * n, n, m)
        parameters = {name: exact(dtype, x[None]) for name, x in zip(names, values, strict=True)}
        expected, cache = layer.forward(ops, parameters, exact(dtype, X), Context(1, 0, None))
        dA_prev, gradients = layer.backward(ops, parameters, cache, exact(dtype, D))
        what = f"{type(layer).__name__} of {n} neurons, {m} samples"
        assert_within(A.T, expected, what)
        assert_within(E.T, dA_prev, f"the derivative of {what}")
        for k, name in enumerate(names):
            terms = D if k in row.in_place else T[k]
            assert_within(terms.mean(0, dtype=np.float64)[:, None], gradients[name], f"{name} of {what}")
        assert (T[row.in_place] == 7).all()


def shortcuts(host: Host) -> None:
    """``add_arrays``: sums of two arrays, also in place, for any number of elements and alignment."""
    dtype, rng = host.dtype, np.random.default_rng(11)
    for n, m, shift in SHAPES:
        x, y, out = (place(spread(rng, m, n), dtype, s) for s in (shift, 0, shift))
        x[m // 2, n // 2] = rng.choice([np.nan, np.inf, 1.0])
        expected = x + y
        launch(host, "add_arrays", n, m, x, y, out, n * m)
        np.testing.assert_array_equal(out, expected)
        launch(host, "add_arrays", n, m, x, y, x, n * m)
        np.testing.assert_array_equal(x, expected)


def parts(host: Host) -> None:
    """``add_parts``: sums over any number of parts, within the bounds."""
    dtype, rng = host.dtype, np.random.default_rng(8)
    for n, number, shift in [(1, 1, 0), (12, 8, 0), (13, 9, 1), (1028, 3, 0), (1028, 70, 1), (4099, 17, 0)]:
        x, out = place(rng.normal(size=(number, n)), dtype, shift), place(np.full(n, 7.0), dtype)
        launch(host, "add_parts", n, 1, x, out, n, number)
        expected = [fsum(map(float, column)) for column in x.T]
        size = [fsum(map(abs, map(float, column))) for column in x.T]
        assert (abs(out - expected) <= gamma(number + 3, np.finfo(dtype).eps / 2) * np.array(size)).all(), (n, number)


def factors(host: Host) -> None:
    """Kernels that write factors of products write what ``round16`` makes of their results, for both formats.

    Samples begin at multiples of 16 bytes.
    """
    dtype, rng, scale = host.dtype, np.random.default_rng(7), 8.0
    silu = lowered("silu", dtype)
    for kind in codes("Half").values():
        for n, m, shift in SHAPES:
            Z, b, D = (place(x, dtype, shift) for x in (spread(rng, m, n), rng.normal(size=n), rng.normal(size=(m, n))))
            half, expected, A = np.zeros((m, padded(n)), np.uint16), np.zeros((m, n), np.uint16), np.zeros_like(Z)

            def compare(result: np.ndarray, factor: float, what: str) -> None:
                launch(host, "round16", n, m, result, expected, n * m, kind, factor)  # noqa: B023
                assert (half[:, :n] == expected).all(), (what, n, m, kind)  # noqa: B023
                assert not half[:, n:].any()  # noqa: B023

            z = Z.copy()
            launch(host, silu.forward, n, m, z, b, A, half, kind, n, m)
            compare(A, 1.0, "A")
            before, dZ = D.copy(), D.copy()
            launch(host, silu.backward, n, m, dZ, z, A, None, 0, 1.0, None, n, m, m, 1.0)
            launch(host, silu.backward, n, m, D, z, A, half, kind, scale, None, n, m, m, 1.0)
            assert (before == D).all()
            compare(dZ, scale, "dZ")
            rows, count = chunks(n, m, dtype=dtype, processors=PROCESSORS)
            arguments = (D, None, None, half, kind, scale, None, n, m, rows, 1.0)
            launch(host, "activation_backward", n, m, *arguments, count=count)
            assert (before == D).all()
            compare(D, scale, "a copy")
            order, L = rng.permutation(m), np.zeros(m, dtype)
            source = source_of((D, None, None), order, m)
            control = np.zeros(1, CONTROL)
            launch(
                host, "gather", n, m, source, control, 0, None, half, kind, None, None, n, 0, m, reachable=(D, order)
            )
            compare(np.ascontiguousarray(D[order]), 1.0, "X")
            for kernel in FUSED.values():
                Y, z = place(rng.random((m, n)), dtype), np.minimum(Z, 40)
                launch(
                    host, fused_kernel(kernel, dtype, n), n, m, z, b, Y, 0, None, None, D, half, kind, scale, L, n, m
                )
                compare(D, scale, kernel)


def empty_arrays(host: Host) -> None:
    """Kernels neither read nor write anything if there are no samples or no parameters."""
    dtype, n = host.dtype, 12
    empty, sevens, control = np.empty((0, n), dtype), np.full(n, 7.0, dtype), np.zeros(1, CONTROL)
    relu = lowered("relu", dtype)
    launch(host, relu.forward, n, 0, empty, sevens, empty, None, 0, n, 0)
    rows = lowered("softmax", dtype, n)
    launch(host, rows.forward, n, 0, empty, sevens, empty, n, 0)
    launch(host, rows.backward, n, 0, empty, None, empty, n, 0)
    for kernel in FUSED.values():
        arguments = (empty, sevens, empty, 0, None, empty, empty, None, 0, 1.0, empty, n, 0)
        launch(host, fused_kernel(kernel, dtype, n), n, 0, *arguments)
    order = np.empty(0, np.int64)
    source = source_of((sevens, sevens, sevens), order, 3)
    launch(host, "gather", n, 0, source, control, 0, empty, None, 0, empty, empty, n, n, 0, reachable=(sevens, order))
    launch(host, relu.backward, n, 0, empty, empty, empty, None, 0, 1.0, sevens, n, 0, 5, 1.0)
    launch(host, "dropout", n, 0, empty, empty, n, 0, 5, 5, 1, control, 2.0)
    launch(host, "noise", n, 0, empty, empty, n, 0, 5, 1, control, 2.0)
    launch(host, "add_arrays", n, 0, empty, empty, empty, 0)
    sgd = lower_update(SGD(), dtype).launch
    launch(host, sgd, 0, 0, empty, empty, 0, 0, control, np.zeros(2))
    launch(host, "round16", 0, 0, empty, np.empty(0, np.uint16), 0, 0, 1.0)
    assert (sevens == 7).all()


CHECKS: dict[str, Callable[[Host], None]] = {
    f.__name__: f
    for f in (
        bias_and_activation, activation_backward, softmax, cross_entropies, losses, nan_and_infinity, losses_of_nan,
        gathers, layers_by_feature, shortcuts, parts, factors, grids, empty_arrays,
    )
}  # fmt: skip
