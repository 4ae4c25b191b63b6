"""User-defined activations, losses and optimizers that are correct but unusual: they train as the equations do."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.formulas import activation, cached
from deepnotes.utils.errors import NotAnExpressionError

BACKENDS = ["numpy", "numba"]


@dataclass(frozen=True)
class Delayed(dn.Optimizer):
    """Uses the gradients of the two updates before: each slot is handed on."""

    learning_rate: float = 0.05
    slots = ("a", "b")

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        a, b = slots
        return theta - scalars["rate"] * (g + 0.5 * a + 0.25 * b), (g, a)


@dataclass(frozen=True)
class Previous(dn.Optimizer):
    learning_rate: float = 0.05
    slots = ("before",)

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta - scalars["rate"] * g + 0.5 * (theta - slots[0]), (theta,)


@dataclass(frozen=True)
class Swapped(dn.Optimizer):
    learning_rate: float = 0.05
    slots = ("p", "q")

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        p, q = slots
        return theta - scalars["rate"] * (0.1 * p + q), (q, p + g)


@dataclass(frozen=True)
class First(dn.Optimizer):
    """Branches on the number of the update."""

    learning_rate: float = 0.05
    slots = ("m",)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        return {"rate": rate, "t": float(step)}

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        m = g if scalars["t"] == 1 else 0.9 * slots[0] + 0.1 * g
        return theta - scalars["rate"] * m, (m,)


@dataclass(frozen=True)
class Squares(dn.LossFunction):
    """With one output, no sum is needed."""

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return (A - Y) * (A - Y)


@dataclass(frozen=True)
class Counting(dn.ActivationFunction):
    """Adds up conditions, which count to 2 on some backends and are joined on others."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z * ((Z > 0) + (Z > 1))


@dataclass(frozen=True)
class ByNumpy(dn.ActivationFunction):
    def forward(self, ops: Any, Z: Any) -> Any:
        E = ops.xp.exp(Z)
        return E / (1 + np.sum(E, axis=0, keepdims=True))


@dataclass(frozen=True)
class Scaled(dn.ActivationFunction):
    k: float = field(default=1.0, compare=False)

    def forward(self, ops: Any, Z: Any) -> Any:
        return self.k * ops.xp.tanh(Z)


class Warm(dn.Activation):
    """Derived from an activation of the library, whose name it has."""

    def __init__(self) -> None:
        super().__init__("softmax")

    def forward(self, ops: Any, Z: Any) -> Any:
        return ops.softmax(Z * 0.2)

    def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
        return 0.2 * ops.softmax_backward(dA, Z * 0.2, A)


def trained(backend: Any, outputs: int = 1, g: Any = "tanh", **settings: Any) -> np.ndarray:
    """Return the parameters of a network after some updates."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(3, 40)), rng.normal(size=(outputs, 40))
    net = dn.Network([dn.Dense(5, g), dn.Dense(outputs)], 3, seed=0, backend=backend, dtype="float64")
    net.fit(X, Y, epochs=6, batch_size=8, **settings)
    return net.flat()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", [Delayed(), Previous(), Swapped(), First()], ids=lambda o: type(o).__name__)
def test_slots_may_be_handed_on_and_updates_may_branch(optimizer: Any, backend: str) -> None:
    expected = trained(dn.Backend("eager", np), optimizer=optimizer)
    np.testing.assert_allclose(trained(backend, optimizer=optimizer), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_losses_of_one_output_need_no_sum(backend: str) -> None:
    expected = trained(dn.Backend("eager", np), loss=Squares())
    np.testing.assert_allclose(trained(backend, loss=Squares()), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_that_differ_in_an_attribute_that_is_not_compared_have_formulas_of_their_own(backend: str) -> None:
    for k in (1.0, 3.0):
        expected = trained(dn.Backend("eager", np), g=Scaled(k))
        np.testing.assert_allclose(trained(backend, g=Scaled(k)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("part", [Counting(), ByNumpy()], ids=lambda part: type(part).__name__)
def test_what_backends_compute_differently_is_no_formula(part: Any) -> None:
    with pytest.raises(NotAnExpressionError):
        activation(part, "float64", 3)


def test_a_class_derived_from_an_activation_is_not_taken_for_it(tmp_path: Any) -> None:
    X, Y = np.random.default_rng(0).normal(size=(3, 20)), np.arange(20) % 3
    net = dn.Network([dn.Dense(3, Warm())], 3, seed=0, backend="numpy", dtype="float64")
    A = net.predict(X)
    loss = net.evaluate(X, Y, loss="categorical_cross_entropy")["loss"]
    assert loss == pytest.approx(-np.log(A[Y, np.arange(20)]).mean())
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(dn.load(tmp_path / "net.safetensors", backend="numpy").predict(X), A)


def test_cached_functions_of_a_part_take_keyword_arguments() -> None:
    calls = []

    @cached
    def describe(part: Any, dtype: str, in_place: bool) -> str:
        calls.append(part)
        return f"{part.name} {dtype} {in_place}"

    for in_place in (False, True, True):
        assert describe(dn.Activation("relu"), "float32", in_place=in_place) == f"relu float32 {in_place}"
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["relu", "softmax"])
def test_the_numba_backend_runs_activations_eagerly(name: str) -> None:
    pytest.importorskip("numba")
    Z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    A, expected = (getattr(dn.get_backend(backend).ops, name)(Z) for backend in ("numba", "numpy"))
    np.testing.assert_allclose(A, expected, rtol=1e-6)
