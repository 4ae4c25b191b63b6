"""Properties that a tolerance cannot express: NaN, infinity, empty arrays, ties, subnormals, precision, bias."""

from collections.abc import Callable
from typing import Any

import numpy as np

from deepnotes.backends.bounds import UNIT
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.testing.calls import Draw, call
from deepnotes.testing.checks import CheckFunction, Derived, NotApplicable, Trial, check
from deepnotes.testing.suite.programs import small
from deepnotes.testing.training_cases import TrainingCase, compile_inference, compile_program, place_on

NOT_AT_INFINITY = {"softmax", "log_softmax", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "softsign"}
"""Activations whose formulas give NaN at infinity, since they multiply infinity by 0, for example."""


def make_nan_check(name: str) -> CheckFunction:
    """Return the check that an activation propagates NaN forward and backward, as its equation does."""

    def run(trial: Trial) -> None:
        for dtype in trial.dtypes:
            Z = Draw(trial.rng, special=False).real(5, 7)
            Z[3, 2] = np.nan
            trial.check(call(name, {}), [Z], dtype, f"{dtype} forward")
            for position in (0, 1):
                dA = Draw(trial.rng, special=False).real(5, 7)
                arguments: list[Any] = [dA, Draw(trial.rng, special=False).real(5, 7), Derived(name, 1)]
                arguments[position][1, 4] = np.nan
                trial.check(
                    call(f"{name}_backward", {}),
                    arguments,
                    dtype,
                    f"{dtype} backward, NaN in {'dA' if position == 0 else 'Z'}",
                )

    return run


def make_extremes_check(name: str) -> CheckFunction:
    """Return the check of an activation at infinity, and at large numbers for which a naive formula gives NaN."""

    def run(trial: Trial) -> None:
        for dtype in trial.dtypes:
            largest = float(np.finfo(dtype).max)
            values = [1e4, -1e4, 0.25 * largest, -0.25 * largest]
            if name not in NOT_AT_INFINITY:
                values += [np.inf, -np.inf]
            if name == "gelu_tanh":
                values = values[:2]  # z³ overflows for the others
            Z = np.array([values, values[::-1]])
            trial.check(call(name, {}), [Z], dtype, f"{dtype} forward")
            if name in {"softmax", "log_softmax"}:
                columns = np.array([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, 0, -1e4]])
                trial.check(call(name, {}), [columns], dtype, f"{dtype} columns of large logits")
            Z_backward = np.array([[1e4, -1e4, 300.0, -300.0]])
            arguments = [np.ones((1, 4)), Z_backward, Derived(name, 1)]
            trial.check(call(f"{name}_backward", {}), arguments, dtype, f"{dtype} backward")

    return run


for _name in ACTIVATIONS:
    check(f"semantics.nan.{_name}", "NaN reaches the elements that depend on it, no others")(make_nan_check(_name))
    check(f"semantics.extremes.{_name}", "correct at infinity and at large numbers")(make_extremes_check(_name))


@check("semantics.nan.namespace")
def nan_in_namespace(trial: Trial) -> None:
    """Functions and operators propagate NaN as NumPy does: maxima, sums, products, comparisons, exp, log, ..."""

    def functions(ops: Ops, x: Any, y: Any) -> Any:
        xp = ops.xp
        return (
            xp.maximum(x, y), xp.minimum(x, y), xp.maximum(y, x), xp.where(x > y, x, y), x + y, x * y, x / y, x - y,
            xp.max(x), xp.max(x, axis=0, keepdims=True), xp.sum(x), xp.sum(x, axis=1), x < y, x >= y, xp.exp(x),
            xp.sqrt(abs(x)), xp.tanh(x), xp.log(abs(x)), xp.log1p(abs(x)), xp.expm1(x), x @ y.T,
        )  # fmt: skip

    for dtype in trial.dtypes:
        x, y = Draw(trial.rng, special=False).real(4, 6), Draw(trial.rng, special=False).real(4, 6)
        x[1, 2] = y[3, 3] = np.nan
        trial.check(functions, [x, y], dtype, dtype)


@check("semantics.logits")
def logits(trial: Trial) -> None:
    """Losses from logits of 1e4 and -1e4 are finite and correct."""
    for dtype in trial.dtypes:
        Z = np.array([[1e4, -1e4, 1e4, -1e4, 0, 40.0]])
        Y = np.array([[1.0, 0, 0, 1, 1, 0]])
        trial.check(call("sigmoid_cross_entropy", {}), [Z, Y], dtype, f"{dtype} sigmoid")
        trial.check(
            call("softmax_cross_entropy", {}), [np.vstack([Z, -Z]), np.vstack([Y, 1 - Y])], dtype, f"{dtype} softmax"
        )


@check("semantics.empty")
def empty(trial: Trial) -> None:
    """Without samples, activations, products, gather and predictions return empty arrays of the right shape."""
    for dtype in trial.dtypes:
        for name in ACTIVATIONS:
            trial.check(call(name, {}), [np.zeros((3, 0))], dtype, f"{dtype} {name}")
        trial.check(call("linear", {}), [np.ones((2, 3)), np.ones((3, 0)), np.ones((2, 1))], dtype, f"{dtype} linear")
        no_indices = np.zeros(0, np.int64)
        trial.check(call("gather", {}), [np.ones((3, 4)), no_indices], dtype, f"{dtype} gather")
        training = TrainingCase(small(), dtype, samples=0)
        state, data = place_on(trial.backend, training)
        result = compile_inference(trial.backend, training.plan).predict(state.theta, data.X)
        trial.same(result, np.zeros((3, 0), dtype), f"{dtype} predict")


DERIVATIVES_AT_KINKS = {"relu": [0, 0, 2], "leaky_relu": [0.002, 0.002, 2], "elu": [2, 2, 2]}
"""The expected results of ``NAME_backward`` for dA = 2, at Z = 0, -0 and 1."""


@check("semantics.ties")
def ties(trial: Trial) -> None:
    """Derivatives at kinks follow the notes: 0 for relu, slope for leaky_relu, alpha for elu, 0 for losses."""
    for dtype in trial.dtypes:
        Z, dA = np.array([[0.0, -0.0, 1.0, -1.0]]), np.full((1, 4), 2.0)
        A = np.array([[0.0, 0, 1, -1]])
        for name, expected in DERIVATIVES_AT_KINKS.items():
            arguments = [dA, Z, Derived(name, 1)]
            trial.check(call(f"{name}_backward", {}), arguments, dtype, f"{dtype} {name}_backward")
            result = getattr(trial.backend.ops, f"{name}_backward")(
                *(trial.backend.from_numpy(x.astype(dtype)) for x in (dA, Z, A))
            )
            is_close = np.abs(trial.host(result)[0, :3] - np.array(expected)) <= 4 * UNIT[dtype] * 2
            trial.that(is_close.all(), f"{dtype} {name}_backward at 0, -0 and 1 gives {expected} for a dA of 2")
        E = np.zeros((2, 3))
        for name in ("mean_absolute_error", "huber", "mean_squared_error"):
            trial.check(
                call(f"{name}_derivative", {}), [E, E], dtype, f"{dtype} {name}_derivative where the error is 0"
            )
        trial.check(call("softmax", {}), [np.zeros((4, 3))], dtype, f"{dtype} softmax of equal logits")


@check("semantics.subnormals")
def subnormals(trial: Trial) -> None:
    """Subnormal numbers are kept; a backend that flushes them to 0 lists this check in its known gaps."""
    for dtype in trial.dtypes:
        tiny = np.finfo(dtype).tiny
        x = np.array([[tiny / 2, -tiny / 4, np.finfo(dtype).smallest_subnormal]], dtype)
        on_backend = trial.backend.from_numpy(x)
        trial.same(on_backend + 0 * on_backend, x, f"{dtype} x + 0")
        trial.same(on_backend * 1.0, x, f"{dtype} x * 1")
        trial.same(trial.backend.ops.relu(on_backend), np.maximum(x, 0), f"{dtype} relu")
        smallest_normal = np.full((1, 1), tiny, dtype)
        trial.same(trial.backend.from_numpy(smallest_normal) * 0.5, smallest_normal * 0.5, f"{dtype} tiny / 2")


def _draw_small_integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-8, 9, shape).astype(np.float64)


def _converter(trial: Trial, dtype: str) -> Callable[[np.ndarray], Any]:
    """Return a function that rounds a host array to `dtype` and copies it to the backend."""
    return lambda x: trial.backend.from_numpy(x.astype(dtype))


@check("semantics.lattice")
def lattice(trial: Trial) -> None:
    """Products, sums and means of small integers are exact, since all their partial sums are exact."""
    for dtype in trial.dtypes:
        for n, k, m in [(1, 1, 1), (3, 5, 8), (17, 33, 64), (64, 129, 16), (130, 64, 256)]:
            W, A, b, dZ = (_draw_small_integers(trial.rng, *shape) for shape in [(n, k), (k, m), (n, 1), (n, m)])
            ops, put = trial.backend.ops, _converter(trial, dtype)
            where = f"{dtype} ({n}, {k}, {m})"
            trial.same(ops.linear(put(W), put(A), put(b)), (W @ A + b).astype(dtype), f"{where} linear")
            trial.same(ops.input_gradient(put(W), put(dZ)), (W.T @ dZ).astype(dtype), f"{where} input_gradient")
            trial.same(ops.weight_gradient(put(dZ), put(A)), (dZ @ A.T / m).astype(dtype), f"{where} weight_gradient")
            db = dZ.sum(axis=1, keepdims=True) / m
            trial.same(ops.bias_gradient(put(dZ)), db.astype(dtype), f"{where} bias_gradient")
            trial.same(trial.backend.xp.sum(put(dZ)), np.asarray(dZ.sum(), dtype), f"{where} sum")


@check("semantics.precision")
def precision(trial: Trial) -> None:
    """Products of odd weights above 4096 with -1, 0 and 1 are exact in float32, but not with factors in TF32."""
    if trial.backend.matmul_precision != "highest":
        raise NotApplicable(f"the backend states that its products have {trial.backend.matmul_precision!r} precision")
    W = 4097.0 + 2 * trial.rng.integers(0, 1000, (64, 64))
    A = trial.rng.integers(-1, 2, (64, 256)).astype(np.float64)
    put = _converter(trial, "float32")
    ops = trial.backend.ops
    trial.same(put(W) @ put(A), (W @ A).astype("float32"), "matmul")
    zero = np.zeros((64, 1))
    trial.same(ops.linear(put(W), put(A), put(zero)), (W @ A).astype("float32"), "linear")
    trial.same(ops.input_gradient(put(W), put(A[:, :64])), (W.T @ A[:, :64]).astype("float32"), "input_gradient")
    trial.same(
        ops.weight_gradient(put(A), put(np.tile(W, 4))),
        (A @ np.tile(W, 4).T / 256).astype("float32"),
        "weight_gradient",
    )


@check("semantics.bias")
def bias(trial: Trial) -> None:
    """Rounding is unbiased: for positive numbers, the mean error of the results is far below one rounding error.

    Each of N results has k rounding errors within ±u, of either sign with equal probability. By Hoeffding's inequality,
    their mean exceeds ``0.1 sqrt(k) u`` with a probability below ``2 exp(-0.005 N)``, which is negligible for ten
    thousand results. If products round their factors to a precision with unit roundoff v, the mean rounding error of
    the 6,400 elements of each factor adds at most ``0.1 v``.
    """
    rng = trial.rng

    def positive(*shape: int) -> np.ndarray:
        return rng.uniform(1, 2, shape)

    cases: dict[str, tuple[Any, list[np.ndarray], int]] = {
        "x + y": (lambda ops, x, y: x + y, [positive(100, 100), positive(100, 100)], 1),
        "x * y": (lambda ops, x, y: x * y, [positive(100, 100), positive(100, 100)], 1),
        "x / y": (lambda ops, x, y: x / y, [positive(100, 100), positive(100, 100)], 1),
        "x @ y": (lambda ops, x, y: x @ y, [positive(100, 64), positive(64, 100)], 64),
        "linear": (call("linear", {}), [positive(100, 64), positive(64, 100), positive(100, 1)], 65),
        "input_gradient": (call("input_gradient", {}), [positive(64, 100), positive(64, 100)], 64),
        "weight_gradient": (call("weight_gradient", {}), [positive(100, 64), positive(100, 64)], 65),
        "bias_gradient": (call("bias_gradient", {}), [positive(10_000, 64)], 65),
        "relu": (call("relu", {}), [positive(100, 100)], 1),
        "gradient_descent": (lambda ops, x, g: ops.gradient_descent(x, g, 0.25), [positive(9999), -positive(9999)], 2),
        "momentum": (
            lambda ops, x, g, v: ops.momentum(x, g, v, 0.25, 0.5)[0],
            [positive(9999), -positive(9999), -positive(9999)],
            4,
        ),
    }
    for dtype in trial.dtypes:
        u = UNIT[dtype]
        for name, (function, arguments, roundings) in cases.items():
            hosts = [x.astype(dtype) for x in arguments]
            reference = trial.bounds(dtype)
            expected = function(reference.ops, *map(reference.from_numpy, hosts)).value
            result = trial.host(function(trial.backend.ops, *map(trial.backend.from_numpy, hosts)))
            mean_error = float(np.mean((result.astype(expected.dtype) - expected) / abs(expected)))
            factor_precision = trial.products(dtype) if roundings >= 64 and name != "bias_gradient" else None
            limit = 0.1 * roundings**0.5 * u + (0.2 * UNIT[factor_precision] if factor_precision else 0.0)
            trial.compared += result.size
            if abs(mean_error) / limit > trial.worst:
                trial.worst, trial.where = abs(mean_error) / limit, f"{dtype} {name}"
            trial.that(abs(mean_error) <= limit, f"{dtype} {name}: mean error {mean_error:.2g}, within ±{limit:.2g}")


@check("semantics.stale")
def stale(trial: Trial) -> None:
    """Each call uses its own data, and later calls do not overwrite earlier results."""
    for dtype in trial.dtypes:
        training = TrainingCase(small(), dtype)
        program = compile_program(trial.backend, training.plan)
        inference = compile_inference(trial.backend, training.plan)
        state, data = place_on(trial.backend, training)
        first = program.gradients(state, data)
        before = trial.host(first.flat).copy()
        outputs = inference.predict(state.theta, data.X)
        outputs_before = trial.host(outputs).copy()
        reversed_X = trial.backend.from_numpy(training.data()[0][:, ::-1].copy())
        program.gradients(state, type(data)(reversed_X, data.Y))
        inference.predict(state.theta, reversed_X)
        trial.same(first.flat, before, f"{dtype}: a gradient after the next one was computed")
        trial.same(outputs, outputs_before, f"{dtype}: outputs after the next ones were computed")
        again = program.gradients(state, data)
        trial.same(again.flat, before, f"{dtype}: the same gradient again")
