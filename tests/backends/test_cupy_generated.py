"""Kernels that the CuPy backend generates from expressions, for user-defined activations, losses and optimizers."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import literature
import numpy as np
import pytest
from host_device import backend
from part_networks import PARTS, UNITS, make_data, make_network

import deepnotes as dn
from deepnotes.backends.bounds import Bounds, excess
from deepnotes_cupy.inference import CupyInference
from deepnotes_cupy.lowering import lower_activation, lower_update
from deepnotes_cupy.program import CupyProgram
from deepnotes_cupy.sources import Launch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_generated_kernels_train_and_predict_like_the_equations(part: Any, dtype: str) -> None:
    X, Y = make_data(part)
    weights = np.linspace(0.5, 1.5, X.shape[1])
    networks = []
    for target in (backend(), dn.Backend("eager", np)):
        net, settings = make_network(part, dtype, target)
        history = net.fit(X, Y, epochs=3, batch_size=16, shuffle=False, sample_weight=weights, **settings)
        networks.append((net, history.loss, net.evaluate(X, Y, loss=settings["loss"])["loss"]))
    (ours, loss, evaluated), (reference, expected_loss, expected) = networks
    assert type(ours._training[1]) is CupyProgram  # type: ignore[index]
    assert type(ours.inference) is CupyInference
    assert ours.backend.device.count("graph") > 0  # type: ignore[attr-defined]
    tolerance = 2e4 * UNITS[dtype]
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    assert evaluated == pytest.approx(expected, rel=tolerance)
    if isinstance(part, literature.Lion | literature.SignSGD):  # a rounding may change the sign of a gradient near 0
        return
    found, wanted = ours.backend.to_numpy(ours.theta), reference.flat()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(1, abs(wanted).max()))
    np.testing.assert_allclose(ours.predict(X[:, :1]), reference.predict(X[:, :1]), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "part", [literature.Mish(), literature.LogSoftmax(), literature.LogCosh(), literature.AMSGrad()]
)
def test_generated_kernels_access_no_memory_that_they_must_not(part: Any) -> None:
    X, Y = make_data(part)
    target = backend()
    target.device.checked = True
    net, settings = make_network(part, "float32", target)
    net.fit(X, Y, epochs=1, batch_size=16, **settings)
    assert np.isfinite(net.flat()).all()


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        (literature.SoftShrink(0.4), {"width": 0.7}),
        (literature.Lion(0.01), {"beta1": 0.8, "beta2": 0.95}),
        (literature.AMSGrad(0.01), {"epsilon": 1e-4, "beta2": 0.6}),
    ],
)
def test_other_values_of_options_need_no_compilation(part: Any, changed: dict[str, float]) -> None:
    def lower(x: Any) -> Launch:
        is_optimizer = isinstance(x, dn.Optimizer)
        return lower_update(x, "float32").launch if is_optimizer else lower_activation(x, "float32", 3).forward

    first, second = lower(part), lower(replace(part, **changed))
    assert first.kernel.source == second.kernel.source
    assert first.arguments != second.arguments


NOT_FINITE = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300]])


@pytest.mark.parametrize("part", literature.ACTIVATIONS, ids=lambda part: type(part).__name__)
def test_special_values_pass_through_generated_kernels_as_through_the_equations(part: Any) -> None:
    nets = [dn.Network([dn.Dense(1, part)], 1, seed=0, dtype="float64", backend=x) for x in (backend(), "numpy")]
    results = []
    for net in nets:
        net.parameters["W1"], net.parameters["b1"] = np.ones((1, 1)), np.zeros((1, 1))
        with np.errstate(all="ignore"):
            X = net.backend.from_numpy(NOT_FINITE)
            results.append(net.backend.to_numpy(net.inference.predict(net.theta, X)))
    found, expected = results
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@dataclass(frozen=True)
class OwnSiLU(dn.ActivationFunction):
    """SiLU, without its derivative."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z / (1 + ops.xp.exp(-Z))


@dataclass(frozen=True)
class OwnHuber(dn.LossFunction):
    """The Huber loss, without its derivative."""

    width: float = 0.7

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        xp, size = ops.xp, abs(A - Y)
        clipped = xp.minimum(size, xp.asarray(self.width, dtype=A.dtype))
        return xp.sum(clipped * (size - 0.5 * clipped), axis=0, keepdims=True) / A.shape[0]


@dataclass(frozen=True)
class OwnAdam(dn.Optimizer):
    """Adam, as in the paper."""

    learning_rate: float = 0.01

    @property
    def slots(self) -> tuple[str, ...]:
        return "m", "v"

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        return {"rate": rate, "mean": 1 - 0.9**step, "square": 1 - 0.999**step}

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        m, v = slots
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * (g * g)
        return theta - scalars["rate"] * (m / scalars["mean"]) / (ops.xp.sqrt(v / scalars["square"]) + 1e-8), (m, v)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_silu_and_huber_written_by_a_user_are_within_the_bounds_of_the_librarys(dtype: str) -> None:
    rng, bounds, target = np.random.default_rng(0), Bounds(dtype), backend()
    Z = target.from_numpy(rng.normal(0, 4, (12, 31)).astype(dtype))
    net = dn.Network([dn.Dense(12, OwnSiLU())], 12, seed=0, dtype=dtype, backend=target)
    net.parameters["W1"], net.parameters["b1"] = np.eye(12, dtype=dtype), np.zeros((12, 1), dtype)
    A = net.inference.predict(net.theta, Z)
    exact = bounds.from_numpy(np.asarray(Z))
    assert excess(np.asarray(A), bounds.ops.silu(exact)).max() <= 1
    Y = rng.normal(size=(12, 31)).astype(dtype)
    _, L = net.inference.losses(net.theta, Z, target.from_numpy(Y), OwnHuber())
    expected = bounds.ops.huber(bounds.from_numpy(np.asarray(A)), bounds.from_numpy(Y), 0.7)
    assert excess(np.asarray(L), expected).max() <= 1


def test_adam_written_by_a_user_trains_like_the_librarys() -> None:
    X, Y = make_data(None)
    results = []
    for optimizer in (OwnAdam(0.01), dn.Adam(0.01)):
        net, settings = make_network(optimizer, "float64", backend())
        net.fit(X, Y, epochs=3, batch_size=16, shuffle=False, **settings)
        results.append(net.flat())
    np.testing.assert_allclose(*results, rtol=0, atol=1e-7)  # the library's epsilon is the same up to rounding


def test_losses_of_class_indices_train_as_those_of_columns() -> None:
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(4, 40)), rng.integers(0, 3, 40)
    results = []
    for Y in (y, np.eye(3)[y].T):
        net, settings = make_network(literature.KLDivergence(), "float64", backend())
        net.fit(X, Y, epochs=2, batch_size=16, shuffle=False, **settings)
        assert type(net._training[1]) is CupyProgram  # type: ignore[index]
        results.append(net.flat())
    np.testing.assert_array_equal(*results)


@dataclass(frozen=True)
class DecayedSGD(dn.Optimizer):
    """Gradient descent with weight decay, whose scalars branch on the step."""

    learning_rate: float = 0.1

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        return {"rate": rate * (0.1 if step < 4 else 1.0)}

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta - scalars["rate"] * (g + 0.3 * decays * theta), ()


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_weights_decay_and_biases_do_not(clip_norm: float | None) -> None:
    X, Y = make_data(None)
    results = []
    for target in (backend(), "numpy"):
        net, settings = make_network(DecayedSGD(), "float64", target)
        net.fit(X, Y, epochs=2, batch_size=16, shuffle=False, clip_norm=clip_norm, **settings)
        results.append(net.flat())
    np.testing.assert_allclose(*results, rtol=1e-10)


def test_an_update_that_may_overflow_is_made_eagerly() -> None:
    results = []
    for target in (backend(), "numpy"):
        net, settings = make_network(OwnAdam(1e-3), "float32", target)
        X, Y = make_data(None)
        settings["loss"] = "mean_absolute_error"
        net.fit(1e18 * X, Y, epochs=1, batch_size=16, shuffle=False, **settings)
        results.append(net.flat())
    np.testing.assert_allclose(*results, rtol=1e-4)


def test_a_part_that_may_change_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    class Scaled(dn.ActivationFunction):
        def __init__(self, slope: float) -> None:
            self.slope = slope

        def forward(self, ops: Any, Z: Any) -> Any:
            return self.slope * Z

    net, settings = make_network(Scaled(2.0), "float64", backend())
    with caplog.at_level(logging.DEBUG, logger="deepnotes"):
        net.fit(*make_data(None), epochs=1, **settings)
    assert type(net._training[1]) is not CupyProgram  # type: ignore[index]
    assert "so it runs eagerly" in caplog.text
