"""Random expressions on special values: every backend gives what NumPy gives, within bounds derived from them."""

from dataclasses import dataclass, replace
from typing import Any

import array_api_strict
import expressions_random as random
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import Batches, Data, Expression, State
from deepnotes.nn import FormulaActivation
from deepnotes.nn.derivatives import pullback
from deepnotes.nn.expressions import Node
from deepnotes.nn.plan import Plan
from deepnotes.testing.training_cases import compile_inference, compile_program

BACKENDS = [dn.Backend("eager", np), dn.Backend("strict", array_api_strict), "numpy", "numba"]
on_each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: getattr(backend, "name", backend))
OUTPUTS = 3
in_each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@dataclass(frozen=True)
class SlotUpdate(dn.Optimizer):
    """An update that computes an expression of the first two slots; the results are the next slots."""

    expression: Expression = None  # type: ignore[assignment]
    learning_rate: float = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(f"result{i}" for i in range(max(2, len(self.expression.results))))

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        found = self.expression(ops.xp, *slots[:2])
        return theta - scalars["rate"] * g, (*found, *slots[len(found) :])


def compute_by_updates(backend: Any, expression: Expression, *arrays: np.ndarray) -> list[np.ndarray]:
    """Return the results of an elementwise expression, computed by a program of the backend."""
    backend = dn.get_backend(backend)
    put, get = backend.from_numpy, backend.to_numpy
    n, dtype = arrays[0].size, expression.dtype
    optimizer = SlotUpdate(expression)
    plan = Plan(n - 1, (dn.Dense(1),), dtype, 0, dn.Loss("mean_squared_error"), optimizer)
    slots = [*(x.flatten() for x in arrays), *(np.zeros(n, dtype) for _ in expression.results)][: len(optimizer.slots)]
    state = State(put(np.zeros(n, dtype)), tuple(put(slot) for slot in slots))
    data = Data(put(np.zeros((n - 1, 1), dtype)), put(np.zeros((1, 1), dtype)))
    with np.errstate(all="ignore"):
        chunk = compile_program(backend, plan).train(state, Batches(data, np.zeros(1, np.int64), 1, np.array([0.1])))
    assert chunk.steps == 1
    return [np.array(get(slot)).reshape(arrays[0].shape) for slot in state.slots[: len(expression.results)]]


def compute_by_predictions(backend: Any, expression: Expression, Z: np.ndarray) -> np.ndarray:
    """Return the result of an expression of Z, as the output of a layer whose logits are Z."""
    backend = dn.get_backend(backend)
    identity = Expression(("dA", "Z", "A"), (), (Node("input", (), "dA"),), (0,), expression.dtype)
    layer = dn.Dense(len(Z), FormulaActivation("random", expression, identity))
    plan = Plan(1, (layer,), expression.dtype, 0, dn.Loss("mean_squared_error"), dn.SGD(0.1))
    inference = compile_inference(backend, plan)
    ones = backend.from_numpy(np.ones((1, 3), expression.dtype))
    columns = []
    for j, z in enumerate(Z.T):
        theta = backend.from_numpy(np.concatenate([z, np.zeros_like(z)]))
        columns.append(np.array(backend.to_numpy(inference.predict(theta, ones)))[:, j % 3])
    return np.stack(columns, axis=1)


def draw_activation(rng: np.random.Generator, dtype: str) -> Expression:
    """Return a random expression of Z with one result."""
    expression = random.draw_expression(rng, 15, dtype, ("Z",))
    return replace(expression, results=expression.results[-1:])


@in_each_dtype
@on_each_backend
def test_each_operation_gives_what_numpy_gives(backend: Any, dtype: str) -> None:
    values = random.special_values(dtype)
    a, b = (x.astype(dtype).reshape(1, -1) for x in np.meshgrid(values, values))
    expression = random.single_operations(dtype)
    found = compute_by_updates(backend, expression, a, b)
    with np.errstate(all="ignore"):
        expected = expression(np, a, b)
    info = np.finfo(dtype)
    for i, x, wanted in zip(expression.results, found, expected, strict=True):
        name = expression.nodes[i].operation
        np.testing.assert_allclose(x, wanted, rtol=8 * info.eps, atol=2 * info.smallest_subnormal, err_msg=name)
        if name not in random.SELECTIONS:
            np.testing.assert_array_equal(np.signbit(x[wanted == 0]), np.signbit(wanted[wanted == 0]), err_msg=name)


@pytest.mark.thinned(4)
@in_each_dtype
@pytest.mark.parametrize("seed", [*range(6), 121])
@on_each_backend
def test_random_elementwise_expressions_give_what_numpy_gives(backend: Any, seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    expression = random.draw_expression(rng, 20, dtype, reductions=False)
    arrays = [random.draw_values(rng, dtype, (1, 600)) for _ in "ab"]
    found = compute_by_updates(backend, expression, *arrays)
    assert random.compare(found, expression, *arrays) > 200


@pytest.mark.thinned(4)
@in_each_dtype
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("seed", range(4))
@on_each_backend
def test_random_expressions_of_several_outputs_give_what_numpy_gives(
    backend: Any, seed: int, derivative: bool, dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    expression = draw_activation(rng, dtype)
    if derivative:
        expression = pullback(expression, OUTPUTS, "Z")
    Z = random.draw_values(rng, dtype, (OUTPUTS, 60))
    found = compute_by_predictions(backend, expression, Z)
    random.compare([found], expression, Z + 0.0)  # biases of 0 turn -0 into 0


def test_derivatives_of_random_expressions_are_central_differences() -> None:
    """Points where two steps disagree are left out: they are close to a kink, or the values are large."""
    smooth: list[np.ndarray] = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        expression = draw_activation(rng, "float64")
        Z = rng.normal(0, 2, (OUTPUTS, 50)).astype(np.longdouble)
        with np.errstate(all="ignore"):
            (found,) = pullback(expression, OUTPUTS, "Z")(np, Z)
            for i in range(OUTPUTS):
                coarse, fine = (random.central_difference(expression, Z, i, h) for h in (2e-6, 1e-6))
                size = np.maximum(1, abs(fine))
                smooth.append(abs(coarse - fine) <= 1e-7 * size)
                errors = abs(found[i] - fine) / size
                assert np.all(errors[smooth[-1]] < 1e-6), f"seed {seed}: {expression}"
    assert np.mean(smooth) > 0.6
