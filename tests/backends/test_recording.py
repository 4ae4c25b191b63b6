"""Replaying a recorded function gives the results of the function itself, in place and without allocating memory."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import NETWORKS, programs

import deepnotes as dn
from deepnotes import equations
from deepnotes.backends.program import Batches, Data
from deepnotes.backends.recording.allocation import TILE
from deepnotes.backends.recording.replay import record
from deepnotes.equations.array import Namespace
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES


def replay(function: Callable[..., list[Any]], *inputs: np.ndarray) -> list[np.ndarray]:
    """Record a function and run the recording twice; check that the bits are the same, and return the results."""
    recording = record(np, function, inputs)
    recording.run()
    first = [np.array(a) for a in recording.outputs]
    recording.run()
    for a, b in zip(first, recording.outputs, strict=True):
        np.testing.assert_array_equal(a, b)  # the second run must not depend on buffers that the first one wrote
    return first


SHAPES = [(1, 1), (5, 7), (3, TILE + 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_activation_replays_bit_for_bit(name: str, shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng(1)
    Z, dA = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    forward, backward = equations.EQUATIONS[name], equations.EQUATIONS[f"{name}_backward"]

    def forward_and_backward(xp: Any, Z: Any, dA: Any) -> list[Any]:
        A = forward(xp, Z)
        return [A, backward(xp, dA, Z, A)]

    for result, expected in zip(replay(forward_and_backward, Z, dA), forward_and_backward(np, Z, dA), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_replays_bit_for_bit(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    A, Y = rng.uniform(0.1, 0.9, shape), rng.uniform(0.1, 0.9, shape)

    def loss_and_derivative(xp: Any, A: Any, Y: Any) -> list[Any]:
        value = equations.EQUATIONS[name](xp, A, Y)
        return [value, equations.mean_loss(xp, value), equations.EQUATIONS[f"{name}_derivative"](xp, A, Y)]

    for result, expected in zip(replay(loss_and_derivative, A, Y), loss_and_derivative(np, A, Y), strict=True):
        np.testing.assert_array_equal(result, expected)


# Random straight-line programs: each step computes a new value from two earlier values of the same shape.
STEPS: list[Callable[[Any, Any, Any], Any]] = [
    lambda xp, a, b: a + b,
    lambda xp, a, b: a * 0.5 - b,
    lambda xp, a, b: xp.where(a > b, a, -b),
    lambda xp, a, b: xp.tanh(a) * xp.astype(b > 0, b.dtype),
    lambda xp, a, b: xp.maximum(a, xp.asarray(0, dtype=a.dtype)),
    lambda xp, a, b: xp.sum(a, axis=0, keepdims=True) * (1 / a.shape[0]) + b,
    lambda xp, a, b: xp.reshape(
        xp.concat([xp.reshape(a, (-1,)), xp.reshape(b, (-1,))], axis=0)[: a.shape[0] * a.shape[1]], a.shape
    ),
    lambda xp, a, b: xp.maximum(a, xp.sum(b) * 0.01),
    lambda xp, a, b: xp.minimum(a, b) + xp.max(b, axis=1, keepdims=True),
    lambda xp, a, b: xp.reshape(a.T, a.shape) - b,
    lambda xp, a, b: (a @ (b.T @ b)) * 0.01,
]


@pytest.mark.slow
@settings(max_examples=settings().max_examples * 60 // 100)
@given(st.data(), st.sampled_from([(3, 4), (6 * TILE // 3, 3)]))
def test_random_programs_replay_correctly_into_new_arrays_and_into_their_inputs(
    data: st.DataObject, shape: Any
) -> None:
    steps = data.draw(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9), st.integers(0, 9)), max_size=8))
    outputs = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=2))
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=shape), rng.normal(size=shape)

    def function(xp: Any, x: Any, y: Any) -> list[Any]:
        values = [x, y]
        for step, i, j in steps:
            values.append(step(xp, values[i % len(values)], values[j % len(values)]))
        return [values[k % len(values)] + 0.0 for k in outputs]  # a pure function does not return its inputs

    expected = function(np, x, y)
    for result, value in zip(replay(function, x, y), expected, strict=True):
        assert_same(result, value)
    recording = record(np, function, [x, y], into=[x, y])
    recording.run()
    assert recording.outputs[0] is x
    assert recording.outputs[1] is y
    assert_same(x, expected[0])
    assert_same(y, expected[1])


def assert_same(result: np.ndarray, expected: np.ndarray) -> None:
    """Check equality up to rounding, since the order of the terms of sums and products depends on the memory layout."""
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-9 * max(1.0, float(np.abs(expected).max())))


# For each function of the namespace, an expression that calls it; x and y have the shape (2, 3), i holds indices.
EXPRESSIONS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "asarray": lambda xp, x, y, i: xp.asarray(3, dtype=x.dtype) * x,
    "arange": lambda xp, x, y, i: xp.astype(xp.arange(1, 7, 2, dtype=xp.int64), x.dtype) - x,
    "zeros": lambda xp, x, y, i: xp.concat([x, xp.zeros((1, 3), dtype=x.dtype)]),
    "zeros_like": lambda xp, x, y, i: xp.zeros_like(x),
    "ones_like": lambda xp, x, y, i: x / (xp.ones_like(x) + y),
    "finfo": lambda xp, x, y, i: x + float(xp.finfo(x.dtype).eps),
    "astype": lambda xp, x, y, i: xp.astype(x * 9, xp.int64),
    "reshape": lambda xp, x, y, i: xp.reshape(x.T, (1, 6)),
    "concat": lambda xp, x, y, i: xp.concat([x, y * 2, x.T[:2, :1]], axis=1),
    "take": lambda xp, x, y, i: xp.take((x + y).T, i, axis=0),
    "equal": lambda xp, x, y, i: xp.equal(x, xp.maximum(x, y)),
    "maximum": lambda xp, x, y, i: xp.maximum(x, y),
    "minimum": lambda xp, x, y, i: xp.minimum(x, y),
    "where": lambda xp, x, y, i: xp.where(x > y, x, y),
    "sum": lambda xp, x, y, i: xp.sum(x, axis=0, keepdims=True),
    "max": lambda xp, x, y, i: xp.max(x, axis=1),
    **{
        name: lambda xp, x, y, i, name=name: getattr(xp, name)(x)  # type: ignore[misc]
        for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "sign")
    },
}


def test_the_expressions_cover_the_namespace() -> None:
    assert set(EXPRESSIONS) == {name for name, f in vars(Namespace).items() if callable(f) and not name.startswith("_")}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_function_of_the_namespace_replays_bit_for_bit(name: str, order: Any) -> None:
    rng = np.random.default_rng(4)
    x, y = (np.asarray(rng.uniform(0.1, 2, (2, 3)), order=order) for _ in range(2))
    i = np.array([2, 0, 2, 1])

    def function(xp: Any, x: Any, y: Any, i: Any) -> list[Any]:
        return [EXPRESSIONS[name](xp, x, y, i)]

    (result,), (expected,) = replay(function, x, y, i), function(np, x, y, i)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected, strict=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, 1:]])
def test_take_reads_its_operands_in_every_run(axis: int, view: Callable[[Any], Any]) -> None:
    """The indices may be negative or constants, and the result may overwrite the operand."""
    x, i = np.arange(16.0).reshape(4, 4), np.array([1, -1, 0])

    def function(xp: Any, x: Any, i: Any) -> list[Any]:
        return [xp.take(view(x), i, axis=axis), xp.take(view(x), xp.asarray([1, 0]), axis=axis)]

    recording = record(np, function, [x, i])
    for _ in range(2):
        recording.run()
        for result, expected in zip(recording.outputs, function(np, x, i), strict=True):
            np.testing.assert_array_equal(result, expected, strict=True)
        x *= 2
        i[:] = [2, 0, 1]
    backwards = record(np, lambda xp, x, i: [xp.take(x, i, axis=0)], [x, np.array([3, 2, 1, 0])], into=[x])
    expected = x[::-1].copy()
    backwards.run()
    np.testing.assert_array_equal(x, expected)


def test_a_branch_on_values_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot branch on the values"):
        record(np, lambda xp, x: [x if x[0] > 0 else -x], [np.ones(3)])


def test_a_function_outside_the_namespace_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="linspace cannot be recorded"):
        record(np, lambda xp, x: [xp.linspace(0, 1, 3) + x], [np.ones(3)])


def test_unused_calls_are_dropped_and_equal_calls_are_merged() -> None:
    x = np.array([1.0, 4.0])
    recording = record(np, lambda xp, x: [xp.sqrt(x) + xp.sqrt(x), xp.exp(x)][:1], [x])
    assert len(recording.calls) == 2  # one sqrt, one add, no exp


def test_gradients_and_update_together_match_train() -> None:
    both, states, _ = programs("numpy", NETWORKS["binary"][0], optimizer=dn.Adam(), class_indices=False)
    rng = np.random.default_rng(5)
    data = Data(rng.normal(size=(5, 6)), rng.integers(0, 2, (1, 6)).astype(float))
    program = both[1]
    program.train(states[0], Batches(data, np.arange(6), 6, np.array([0.05])))
    gradient = program.gradients(states[1], data)
    program.update(states[1], np.array(gradient.flat), 0.05)
    np.testing.assert_array_equal(states[0].theta, states[1].theta)
    assert states[1].step == 1


def test_a_program_allocates_no_memory_after_its_first_call() -> None:
    """NumPy's temporary buffer for broadcasting (8,192 elements) is allowed; it is far smaller than the arrays."""
    both, states, _ = programs(
        "numpy",
        [dn.Dense(300, "gelu"), dn.Dropout(0.1), dn.Dense(3, "softmax")],
        optimizer=dn.AdamW(),
        class_indices=True,
    )
    rng = np.random.default_rng(6)
    data = Data(rng.normal(size=(5000, 5)).T, rng.integers(0, 3, (1, 5000)))
    program, state, order, rates = both[1], states[1], np.arange(5000), np.full(5, 0.01)

    def train() -> None:
        program.train(state, Batches(data, order, 1000, rates))

    train()
    tracemalloc.start()
    try:
        train()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        train()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    numpy_buffer, one_activation = 8192 * 8, 300 * 1000 * 8
    assert peak - before < numpy_buffer + 10_000 < one_activation / 30
    assert after - before < 2_000
