"""More checks of CUDA kernels: norms, decisions, updates, masks, 16-bit rounding, embeddings, batch normalization."""

from collections.abc import Callable
from math import fsum, isfinite, sqrt
from typing import Any

import numpy as np
from cuda_checks import CONTROL, PROCESSORS, assert_within, exact, launch, place
from cuda_shim import Host

from deepnotes.backends import SGD, Adam, AdamW, BatchNorm, Context, Dense, Embedding, Layout, RMSProp
from deepnotes.backends.bounds import Bounds, gamma
from deepnotes.equations import EQUATIONS
from deepnotes.equations.ops import Ops
from deepnotes_cupy.geometry import grid
from deepnotes_cupy.lowering import EmbeddingRow, lower, lower_update
from deepnotes_cupy.sources import codes

COUNTS = [(1, 0, 1), (3, 2, 0), (8, 8, 0), (130, 77, 0), (130, 77, 1), (4099, 4000, 0), (2600, 1301, 3)]
"""The numbers of all and of decaying parameters, and the offset of arrays from a 16-byte boundary, in elements."""


def norms(host: Host) -> None:
    """``gradient_norm``: L1, L2, the sum of squares, and the largest magnitude, with NaN and infinity too."""
    dtype, rng, ops = host.dtype, np.random.default_rng(0), Bounds(host.dtype).ops
    for p, decaying, shift in COUNTS:
        for l1, l2 in ((0.0, 0.0), (0.0, 0.1), (0.2, 0.0), (0.2, 0.1)):
            g, theta = (place(rng.normal(size=p), dtype, shift) for _ in range(2))
            theta[::3] = 0  # the sign of 0 is 0
            before, (blocks, threads) = g.copy(), grid("gradient_norm", p, dtype=dtype, processors=PROCESSORS)
            partial, L = np.full((blocks[0], 3), 7.0), place(rng.random(5 * p + 1), dtype)
            launch(host, "gradient_norm", p, 1, g, theta, p, p, decaying, l1, l2, L, len(L), partial)
            decays = exact(dtype, np.asarray(np.arange(p) < decaying, dtype))
            expected = exact(dtype, before)
            for factor, add_gradient in ((l2, ops.l2_gradient), (l1, ops.l1_gradient)):
                expected = add_gradient(expected, exact(dtype, theta), decays, factor) if factor else expected
            assert_within(g, expected, f"L1 and L2 of {p}")
            assert l1 or l2 or (g == before).all()
            squares = [float(x) ** 2 for x in g]
            assert abs(partial[:, 0].sum() - fsum(squares)) <= gamma(p + 1, 2.0**-53) * fsum(squares)
            assert partial[:, 1].max() == abs(g).max()
            losses = fsum(map(float, L))
            assert abs(partial[:, 2].sum() - losses) <= gamma(len(L) + 1, 2.0**-53) * losses
            changes = place([*before, 2.0**90, -5.0], dtype, shift)  # the changes of two statistics follow
            host.launch(
                "gradient_norm", blocks, threads, changes, theta, p, p + 2, decaying, l1, l2, L, len(L), partial
            )
            assert (changes == [*g, 2.0**90, -5.0]).all()
            assert abs(partial[:, 0].sum() - fsum(squares)) <= gamma(p + 1, 2.0**-53) * fsum(squares)
            assert partial[:, 1].max() == abs(g).max()
            for value in (np.nan, np.inf, -np.inf):
                changes[p + 1] = value
                host.launch(
                    "gradient_norm", blocks, threads, changes, theta, p, p + 2, decaying, 0.0, 0.0, L, len(L), partial
                )
                assert np.isnan(partial[:, :2]).any(axis=0).all()
                g[...] = before
                g[p // 2] = value
                host.launch("gradient_norm", blocks, threads, g, theta, p, p, decaying, l1, l2, L, len(L), partial)
                assert not np.isfinite(partial[:, 0]).all()
                assert np.array_equal(partial[:, 1].max(), abs(value), equal_nan=True)


def verdicts(host: Host) -> None:
    """``check_update``: cost, norm, clipping, sums, counters, and the decision to stop, as in EagerProgram.train."""
    dtype, rng = host.dtype, np.random.default_rng(1)
    safe = 1e-4 * float(np.finfo(dtype).max)
    huge = 1e200 if dtype == "float64" else 1e25
    #        losses, the gradient's elements, learning rate, clip_norm -> stopped
    cases: list[tuple[float, list[float], float, float, int]] = [
        (1.0, [0.5, -2.0, 1.0], 0.1, 0.0, 0), (1.0, [0.5, -2.0, 1.0], 0.1, 1.0, 0),
        (1.0, [0.5, -2.0, 1.0], 0.1, 100.0, 0), (1.0, [0.0, 0.0], 0.1, 1.0, 0),
        (np.nan, [1.0], 0.1, 0.0, 1), (np.inf, [1.0], 0.1, 0.0, 1),
        (1.0, [np.nan, 1.0], 0.1, 0.0, 1), (1.0, [1.0, -np.inf], 0.1, 1.0, 1),
        (1.0, [1.0], safe, 0.0, 2), (1.0, [1.0], np.nan, 0.0, 2),
        (1.0, [1.0], safe / 2, 0.0, 0), (1.0, [safe, 1.0], 1.0, 0.0, 2),
        (1.0, [huge], 0.1, 1.0, 0 if dtype == "float32" else 2), (1.0, [huge], 0.1, 0.0, 2),
        (1.0, [1e-30], 0.1, 1e-31, 0), (1.0, [1.0] * 4099, 0.1, 1.0, 0),
    ]  # fmt: skip
    for loss, elements, rate, clip_norm, stopped in cases:
        for m in (1, 70, 3000):
            g, L = place(elements, dtype), place(rng.random(m), dtype)
            L[m // 2] = loss
            blocks, threads = grid("gradient_norm", len(g), dtype=dtype, processors=PROCESSORS)
            partial = np.zeros((blocks[0], 3))
            host.launch("gradient_norm", blocks, threads, g, g, len(g), len(g), 0, 0.0, 0.0, L, m, partial)
            control, scalars = np.zeros(1, CONTROL), rng.random((4, 4))
            scalars[2, 0] = rate
            control[["loss_sum", "weight_sum", "step", "updates"]] = (3.0, 2.0, 2**33, 2)
            before, current = control.copy(), np.full(4, 9.0)
            arguments = (partial, blocks[0], m, scalars, 4, current, clip_norm, safe)
            launch(host, "check_update", 1, 1, control, *arguments)
            after = control[0]
            assert after["stopped"] == stopped, (loss, elements[:3], rate, clip_norm)
            largest = max(abs(x) for x in elements) if np.isfinite(elements).all() else np.nan
            norm = sqrt(fsum(float(x) ** 2 for x in g)) if isfinite(largest * largest) else largest
            if isfinite(norm):
                assert abs(after["norm"] - norm) <= gamma(len(g) + 3, 2.0**-53) * norm
            else:
                assert not isfinite(after["norm"])
            cost = fsum(map(float, L)) / m if isfinite(loss) else loss
            if isfinite(cost):
                assert abs(after["cost"] - cost) <= gamma(m + 1, 2.0**-53) * cost + np.finfo(dtype).eps / 2 * cost
            else:
                assert np.array_equal(after["cost"], cost, equal_nan=True)
            if stopped:
                for name in ("loss_sum", "weight_sum", "step", "updates"):
                    assert after[name] == before[0][name]
                assert (current == 9).all()
                stopped_control = control.copy()  # it must not change, even if the next batch is finite
                finite = (
                    np.zeros_like(partial),
                    *arguments[1:3],
                    np.ones_like(scalars),
                    4,
                    current,
                )
                launch(host, "check_update", 1, 1, control, *finite, clip_norm, safe)
                assert (current == 9).all()
                assert control.tobytes() == stopped_control.tobytes()
                continue
            assert (current == scalars[2]).all()
            clip = clip_norm / after["norm"] if clip_norm and after["norm"] > clip_norm else 1.0
            assert (after["clip"], after["step"], after["updates"]) == (clip, 2**33 + 1, 3)
            assert after["loss_sum"] == 3.0 + after["cost"] * m
            assert after["weight_sum"] == 2.0 + m


def epochs(host: Host) -> None:
    """``end_epoch``: the sums and the cost are stored for each epoch, and the sums restart, unless training stopped."""
    control, sums = np.zeros(1, CONTROL), np.full((4, 3), 9.0)
    expected = sums.copy()
    for epoch in range(3):
        expected[epoch] = control[["loss_sum", "weight_sum", "cost"]] = (1.5 + epoch, 2.0, 0.25 * epoch)
        control[["step", "updates"]] = (2**33 + epoch, epoch + 5)
        launch(host, "end_epoch", 1, 1, control, sums)
        assert np.array_equal(sums, expected)
        fields = ("loss_sum", "weight_sum", "cost", "step", "updates", "epoch")
        assert control[[*fields]][0].item() == (0.0, 0.0, 0.25 * epoch, 2**33 + epoch, epoch + 5, epoch + 1)
    for stopped in (1, 2):
        control[["loss_sum", "weight_sum", "stopped"]] = (0.5, 1.0, stopped)
        before = control.tobytes()
        launch(host, "end_epoch", 1, 1, control, sums)
        assert control.tobytes() == before
        assert np.array_equal(sums, expected)


def updates(host: Host) -> None:
    """The update of each optimizer, with or without clipping; after a stop, nothing is updated."""
    dtype, rng, ops = host.dtype, np.random.default_rng(2), Bounds(host.dtype).ops
    optimizers: list[tuple[Any, Callable[..., Any]]] = [
        (SGD(), lambda t, g, s, r, e: (ops.gradient_descent(t, g, r),)),
        (SGD(momentum=0.9), lambda t, g, s, r, e: ops.momentum(t, g, *s, r, 0.9)),
        (SGD(momentum=0.9, nesterov=True), lambda t, g, s, r, e: ops.momentum(t, g, *s, r, 0.9, True)),
        (RMSProp(rho=0.9), lambda t, g, s, r, e: ops.rmsprop(t, g, *s, r, 0.9, e)),
        (Adam(beta1=0.9, beta2=0.999), lambda t, g, s, r, e: ops.adam(t, g, *s, r, e, 0.9, 0.999)),
        (AdamW(beta1=0.9, beta2=0.999), lambda t, g, s, r, e: ops.adam(t, g, *s, r, e, 0.9, 0.999)),
    ]
    for p, decaying, shift in COUNTS:
        for optimizer, equation in optimizers:
            update = lower_update(optimizer, dtype)
            for clip in (1.0, 0.3):
                theta, g, *slots = (place(rng.normal(size=p), dtype, shift) for _ in range(2 + len(optimizer.slots)))
                if slots and not isinstance(optimizer, SGD):
                    slots[-1][...] = abs(slots[-1])
                before = [a.copy() for a in (theta, g, *slots)]
                control = np.zeros(1, CONTROL)
                control["clip"] = clip
                values = {"rate": 0.01, "epsilon": 1e-3, "share": 0.01}
                share = 0.01 if "share" in update.scalars else 0.0
                scalars = np.array([np.nan, *(values[name] for name in update.scalars)])  # no update reads the first
                arguments = (theta, g, *slots, p, decaying, control, scalars)
                launch(host, update.launch, p, 1, *arguments)
                t, gradient, *s = (exact(dtype, a) for a in before)
                if share:
                    t = ops.weight_decay(t, exact(dtype, np.asarray(np.arange(p) < decaying, dtype)), share)
                expected = equation(t, gradient if clip == 1 else gradient * clip, s, 0.01, 1e-3)
                for actual, reference in zip((theta, *slots), expected, strict=True):
                    assert_within(actual, reference, f"{optimizer} of {p}")
                assert (g == before[1]).all()
                after = [a.tobytes() for a in (theta, *slots)]
                control["stopped"] = 1
                launch(host, update.launch, p, 1, *arguments)
                assert after == [a.tobytes() for a in (theta, *slots)]


def masks(host: Host) -> None:
    """``dropout``: masks match the equation bit for bit, and are applied to NaN and infinity too."""
    dtype, rng = host.dtype, np.random.default_rng(3)
    for n, m, shift in [(1, 1, 0), (1, 7, 0), (3, 5, 0), (4, 6, 0), (10, 37, 1), (64, 33, 0), (130, 21, 0)]:
        for rate, seed, step in ((0.5, 0, 0), (0.3, 2**64 - 1, 2**32 + 5), (0.0, 7, 1), (1 - 2.0**-40, 7, 1)):
            A = place(rng.normal(size=(m, n)), dtype, shift)
            A[m // 2, n // 2] = rng.choice([np.nan, np.inf, 1.0])
            control, layer = np.zeros(1, CONTROL), int(rng.integers(1, 9))
            control["step"] = step
            factor = np.dtype(dtype).type(1 / (1 - rate))
            mask = EQUATIONS["dropout_mask"](np, (n, m), rate, seed, np.int64(step), layer, np.dtype(dtype))
            out = place(np.full((m, n), 7.0), dtype, shift)
            arguments = (n, m, round(rate * 2**32), seed, layer, control, float(factor))
            launch(host, "dropout", n, m, A, out, *arguments)
            np.testing.assert_array_equal(out, A * (mask.T * factor))
            launch(host, "dropout", n, m, A, A, *arguments)
            np.testing.assert_array_equal(out, A)


def noises(host: Host) -> None:
    """``noise``: the numbers of the equation, times the standard deviation, are added to each element."""
    dtype, rng = host.dtype, np.random.default_rng(5)
    for n, m, shift in [(1, 1, 0), (3, 5, 0), (10, 37, 1), (130, 21, 0)]:
        for std, seed, step in ((0.5, 0, 0), (2.0, 2**64 - 1, 2**32 + 5)):
            A, out = place(rng.normal(size=(m, n)), dtype, shift), place(np.full((m, n), 7.0), dtype, shift)
            control, layer = np.zeros(1, CONTROL), int(rng.integers(1, 9))
            control["step"] = step
            noise = EQUATIONS["noise"](np, (n, m), seed, np.int64(step), layer, np.dtype(dtype))
            arguments = (n, m, seed, layer, control, std)
            launch(host, "noise", n, m, A, out, *arguments)
            np.testing.assert_allclose(out, A + std * noise.T, rtol=0, atol=40 * np.finfo(dtype).eps)
            launch(host, "noise", n, m, A, A, *arguments)
            np.testing.assert_array_equal(out, A)


def rounding(host: Host) -> None:
    """``round16``: float16 as in NumPy, and bfloat16 as in `to_bfloat16`, for ties, subnormals, overflow and NaN."""
    dtype = host.dtype
    low = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (np.arange(0, 1 << 16, 3, dtype=np.uint32)[:, None] << 16 | low).reshape(-1).view(np.float32)
    if dtype == "float64":  # with neighbours that would round to the same float32
        x = x[::5].astype(np.float64)
        x = np.concatenate([x, *(np.nextafter(x, end) for end in (-np.inf, np.inf))])
    for count, shift in ((len(x), 0), (29, 0), (7, 1), (1, 0)):
        values = place(x[:count], dtype, shift)
        for scale in (1.0, 0.25) if count == len(x) else (1.0,):
            out = np.full(count + 1, 7, np.uint16)
            out = out[1:] if out.ctypes.data % 16 or shift else out[:-1]
            scaled = values * np.dtype(dtype).type(scale)
            if host.flush:
                scaled = np.where(abs(scaled) < np.finfo(dtype).smallest_normal, scaled * 0, scaled)
            launch(host, "round16", count, 1, values, out, count, codes("Half")["float16"], scale)
            np.testing.assert_array_equal(out.view(np.float16), scaled.astype(np.float16))
            launch(host, "round16", count, 1, values, out, count, codes("Half")["bfloat16"], scale)
            rounded = (out.astype(np.uint32) << 16).view(np.float32)
            np.testing.assert_array_equal(rounded, to_bfloat16(scaled))
            assert (np.signbit(rounded) == np.signbit(scaled)).all()


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round x to bfloat16 (8 significant bits), to nearest with ties to even, without other rounding errors."""
    x64 = x.astype(np.float64)
    exponent = np.maximum(np.frexp(x64)[1] - 8, -133)
    return np.ldexp(np.rint(np.ldexp(x64, -exponent)), exponent).astype(np.float32)


def embeddings(host: Host) -> None:
    """``embed`` and ``embedding_gradient``: vectors bit for bit, and gradients within the bounds, in any chunks."""
    dtype, rng, ops = host.dtype, np.random.default_rng(12), Bounds(host.dtype).ops
    numpy = Ops(np, {})
    for tables, inputs, m, rows in [
        ({0: (1, 1)}, 1, 1, 1), ({0: (3, 2)}, 2, 9, 4), ({1: (40, 5), 2: (2, 1), 4: (7, 3)}, 6, 60, 64),
        ({0: (5, 40), 3: (9, 70)}, 4, 150, 50), ({2: (300, 3)}, 3, 70, 23),
    ]:  # fmt: skip
        layer = Embedding(tables)
        layers = [layer, Dense(1)]
        layout = Layout(inputs, layers)
        row = lower(layers, layout, dtype, training=True)[0]
        assert isinstance(row, EmbeddingRow)
        n, p, scale = row.n, row.tables[-1], 1 / m
        X, theta = place(rng.normal(size=(m, inputs)), dtype), place(rng.normal(size=layout.size), dtype, 1)
        for column, categories, _ in layer:
            X[:, column] = rng.integers(0, categories, m)
        A, outputs, places = place(np.full((m, n), 7.0), dtype), np.array(row.outputs), np.array(row.tables)
        launch(host, "embed", n, m, X, theta, outputs, A, inputs, n, m)
        parameters = layout.split(np, theta)[0]
        expected, _ = layer.forward(numpy, parameters, X.T, Context(1, 0, None))
        np.testing.assert_array_equal(A.T, expected)

        D, count = place(rng.normal(size=(m, n)), dtype), -(-m // rows)
        partial = place(np.full((count, p), 7.0), dtype)
        operands = D, X, places, partial, inputs, n, p, m, rows, count, scale
        launch(host, "embedding_gradient", p, count, *operands)
        _, gradients = layer.backward(ops, {}, exact(dtype, X), exact(dtype, D))
        found = partial.sum(0, dtype=np.float64)
        for (first, _, size, _), (name, gradient) in zip(places[:-1].reshape(-1, 4), gradients.items(), strict=True):
            categories = len(parameters[name])
            table = found[first : first + size * categories].reshape(categories, size)
            assert_within(table, gradient, f"{name} of {tables}")

        wrong = X.copy()  # indices are checked before, but any number reads a table only
        for column, categories, _ in layer:
            wrong[:, column] = rng.choice([np.nan, -1, -np.inf, categories, 1e9, 0], m)
            X[:, column] = 0
        launch(host, "embed", n, m, wrong, theta, outputs, A, inputs, n, m)
        np.testing.assert_array_equal(A.T, layer.forward(numpy, parameters, X.T, Context(1, 0, None))[0])


def batch_norms(host: Host) -> None:
    """``normalize_batch``, ``differentiate_batch`` and ``normalize``, within the bounds; also for a single sample."""
    dtype, rng, ops = host.dtype, np.random.default_rng(13), Bounds(host.dtype).ops
    layer = BatchNorm(0.5, momentum=0.3)
    for n, m in [(1, 1), (1, 7), (3, 2), (33, 1), (33, 40), (70, 65), (5, 300)]:
        X, D, values, statistics = (
            place(rng.normal(size=shape) + 1, dtype, shift)
            for shape, shift in (((m, n), 0), ((m, n), 1), ((2, n), 1), ((2, n), 0))
        )
        statistics[1] = abs(statistics[1])
        names = list(layer.parameters(n))
        rows = zip(names, (*values, *statistics), strict=True)
        parameters = {name: exact(dtype, x[None]) for name, x in rows}
        A, X_hat, E = (place(np.full((m, n), 7.0), dtype) for _ in range(3))
        moments, gradients, changes = (place(np.full((k, n), 7.0), dtype) for k in (3, 2, 2))
        what = f"{n} features of {m} samples"
        for step in (None, ops.xp.asarray(0, dtype=ops.xp.int64)):
            expected, cache = layer.forward(ops, parameters, exact(dtype, X), Context(1, 0, step))
            if step is None:
                launch(host, "normalize", n, m, X, values, statistics, A, n, m, 0.5)
            else:
                launch(host, "normalize_batch", n, m, X, values, statistics, A, X_hat, moments, n, m, 0.5)
            assert_within(A.T, expected, f"{what}, {step}")
        operands = D, X_hat, moments, values, statistics, E, gradients, changes
        launch(host, "differentiate_batch", n, m, *operands, n, m, 0.3)
        dA_prev, expected_gradients = layer.backward(ops, parameters, cache, exact(dtype, D))
        assert_within(E.T, dA_prev, f"the derivative of {what}")
        for name, found in zip(names, (*gradients, *changes), strict=True):
            assert_within(found[:, None], expected_gradients[name], f"{name} of {what}")


STEP_CHECKS: dict[str, Callable[[Host], None]] = {
    f.__name__: f for f in (norms, verdicts, epochs, updates, masks, noises, rounding, embeddings, batch_norms)
}
