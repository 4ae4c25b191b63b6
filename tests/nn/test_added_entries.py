"""Activations, losses and optimizers that are only added to a table train on every backend, without a line there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend

import deepnotes as dn
from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Batches, Data, State
from deepnotes.backends.recording.program import RecordedProgram
from deepnotes.equations import EQUATIONS
from deepnotes.nn import activations, losses, optimizers
from deepnotes.nn.losses import Loss
from deepnotes.nn.plan import Plan, Supported
from deepnotes.utils.errors import NotAnExpressionError

pytest.importorskip("numba")


def hard_tanh(xp: Any, Z: Any) -> Any:
    """Return ``min(max(z, -1), 1)``."""
    return xp.minimum(xp.maximum(Z, -xp.ones_like(Z)), xp.ones_like(Z))


def hard_tanh_backward(xp: Any, dA: Any, Z: Any, A: Any) -> Any:
    """Return ``dA`` where ``-1 < z < 1``, else 0."""
    return dA * xp.astype(abs(Z) < 1, Z.dtype)


def log_cosh(xp: Any, A: Any, Y: Any) -> Any:
    """Return the mean of ``log cosh(a - y)``."""
    E = abs(A - Y)
    return xp.sum(E + xp.log1p(xp.exp(-2 * E)) - 0.6931471805599453, axis=0, keepdims=True) / A.shape[0]


def log_cosh_derivative(xp: Any, A: Any, Y: Any) -> Any:
    """Return ``tanh(a - y) / k``."""
    return xp.tanh(A - Y) / A.shape[0]


@dataclass(frozen=True)
class SignSGD(dn.Optimizer):
    """``θ ← θ - rate sign(g)`` (Bernstein et al., arXiv:1802.04434)."""

    learning_rate: float = 0.01

    def update(
        self, ops: Any, theta: Any, g: Any, slots: tuple[Any, ...], decays: Any, scalars: Mapping[str, Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        return theta - scalars["rate"] * ops.xp.sign(g), ()


@pytest.fixture
def _added_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add an activation, a loss and an optimizer as described in CONTRIBUTING.md."""
    for function in (hard_tanh, hard_tanh_backward, log_cosh, log_cosh_derivative):
        monkeypatch.setitem(EQUATIONS, function.__name__, function)
    monkeypatch.setitem(activations.LIBRARY, "hard_tanh", activations.Traits())
    monkeypatch.setitem(losses.LIBRARY, "log_cosh", losses.Traits())
    monkeypatch.setitem(optimizers.LIBRARY, "sign_sgd", SignSGD)


BACKENDS: dict[str, Callable[[], Backend]] = {
    "numpy": lambda: type(dn.get_backend("numpy"))(),  # type: ignore[call-arg]
    "numba": lambda: type(dn.get_backend("numba"))(),  # type: ignore[call-arg]
    "cupy": cupy_backend,
}


def make_plan(g: str = "tanh", loss: str = "mean_squared_error", optimizer: str = "sgd") -> Plan:
    """Return a plan with the hidden activation `g`, and this loss and optimizer."""
    layers = (dn.Dense(6, g), dn.Dense(2))
    return Plan(3, layers, "float64", 0, Loss(loss), optimizers.as_optimizer(optimizer))


def train(backend: Backend, plan: Plan) -> tuple[np.ndarray, float]:
    """Return the parameters after five updates, and the sum of the losses."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(3, 40)), rng.normal(size=(2, 40))
    theta = plan.layout.initial(rng)
    program = backend.compile(plan) or EagerProgram(backend, plan)
    zeros = tuple(backend.from_numpy(np.zeros_like(theta)) for _ in plan.optimizer.slots)
    state = State(backend.from_numpy(theta), zeros)
    data = Data(backend.from_samples(X), backend.from_samples(Y))
    chunk = program.train(state, Batches(data, rng.permutation(40), 8, np.full(5, 0.01)))
    return np.array(backend.to_numpy(state.theta)), chunk.loss_sum


NEW_ENTRIES = [{"g": "hard_tanh"}, {"loss": "log_cosh"}, {"optimizer": "sign_sgd"}]


@pytest.mark.usefixtures("_added_entries")
@pytest.mark.parametrize("entries", [*NEW_ENTRIES, NEW_ENTRIES[0] | NEW_ENTRIES[1] | NEW_ENTRIES[2]], ids=str)
@pytest.mark.parametrize("name", ["numba", "cupy"])
def test_training_with_added_entries_agrees_with_numpy(name: str, entries: dict[str, str]) -> None:
    expected, expected_loss = train(BACKENDS["numpy"](), make_plan(**entries))
    theta, loss = train(BACKENDS[name](), make_plan(**entries))
    np.testing.assert_allclose(theta, expected, rtol=1e-10, atol=1e-12)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    default, _ = train(BACKENDS["numpy"](), make_plan())
    assert not np.allclose(expected, default, atol=1e-6)


@pytest.mark.usefixtures("_added_entries")
@pytest.mark.parametrize("entries", NEW_ENTRIES, ids=str)
def test_added_entries_are_recorded_on_numpy_and_compiled_on_other_backends(entries: dict[str, str]) -> None:
    from deepnotes_cupy.program import CupyProgram
    from deepnotes_numba.program import NumbaProgram

    assert isinstance(BACKENDS["numpy"]().compile(make_plan(**entries)), RecordedProgram)
    assert isinstance(BACKENDS["cupy"]().compile(make_plan(**entries)), CupyProgram)
    assert isinstance(BACKENDS["numba"]().compile(make_plan(**entries)), NumbaProgram)


@pytest.mark.usefixtures("_added_entries")
@pytest.mark.parametrize("name", BACKENDS)
def test_networks_with_added_entries_predict_and_evaluate(name: str) -> None:
    layers = [dn.Dense(6, "hard_tanh"), dn.Dense(2)]
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(3, 40)), rng.normal(size=(2, 40))
    backends = BACKENDS[name](), BACKENDS["numpy"]()
    net, reference = (dn.Network(layers, 3, backend=backend, dtype="float64", seed=0) for backend in backends)
    np.testing.assert_allclose(net.predict(X), reference.predict(X), rtol=1e-12)
    loss, expected = (network.evaluate(X, Y, loss="log_cosh")["loss"] for network in (net, reference))
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "optimizer",
    [dn.RMSProp(epsilon_inside=True), dn.AdamW(decay_biases=True), dn.SGD(0.1, 0.9, rate_in_velocity=True), SignSGD()],
    ids=lambda o: type(o).__name__,
)
def test_the_kernel_of_another_variant_of_an_optimizer_is_generated_on_cupy(optimizer: Any) -> None:
    plan = replace(make_plan(), optimizer=optimizer)
    backend = BACKENDS["cupy"]()
    assert type(backend.compile(plan)).__name__ == "CupyProgram"
    (theta, loss), (expected, expected_loss) = train(backend, plan), train(BACKENDS["numpy"](), plan)
    np.testing.assert_allclose(theta, expected, rtol=1e-10, atol=1e-12)
    assert loss == pytest.approx(expected_loss, rel=1e-10)


@pytest.mark.parametrize("part", ["activation", "loss", "optimizer"])
def test_lowering_a_part_that_cannot_be_traced_is_an_error_on_numba(part: str) -> None:
    from deepnotes_numba.program import NumbaProgram

    class Power(dn.ActivationFunction):
        range = "real"

        def forward(self, ops: Any, Z: Any) -> Any:
            return Z**3

    class Fourth(dn.LossFunction):
        def value(self, ops: Any, A: Any, Y: Any) -> Any:
            return ops.xp.sum((A - Y) ** 4, axis=0, keepdims=True)

    class Cube(SignSGD):
        def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
            return theta - scalars["rate"] * g**3, ()

    changed: dict[str, dict[str, Any]] = {
        "activation": {"layers": (dn.Dense(6, Power()), dn.Dense(2))},
        "loss": {"loss": Fourth()},
        "optimizer": {"optimizer": Cube()},
    }
    backend: Any = BACKENDS["numba"]()
    plan = replace(make_plan(), **changed[part])
    assert backend.compile(plan) is None
    with pytest.raises(NotAnExpressionError, match="power"):
        NumbaProgram(backend, plan)


def test_supported_refuses_derived_classes_and_unlisted_names() -> None:
    class Derived(dn.Dense):
        pass

    supported = Supported({"relu"}, {"huber"}, lambda optimizer: type(optimizer) is dn.SGD)
    assert supported.has_layers([dn.Dense(3, "relu"), dn.Dropout(0.1)])
    assert not supported.has_layers([Derived(3, "relu")])
    assert not supported.has_layers([dn.Dense(3, "tanh")])
    assert supported.has_loss(Loss("huber"))
    assert not supported.has_loss(Loss("poisson"))
    assert not supported.has_plan(make_plan())
