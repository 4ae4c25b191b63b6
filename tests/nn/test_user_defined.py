"""User-defined layers, activations and losses train on every backend."""

import logging
from typing import Any

import numpy as np
import pytest
from plans import BACKENDS, blobs

import deepnotes as dn
from deepnotes.backends.eager import EagerProgram
from deepnotes.nn.layers import Parameter


class Swish(dn.ActivationFunction):
    """A user-defined activation."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return ops.silu(Z)

    def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
        return ops.silu_backward(dA, Z, A)


class Scale(dn.Layer):
    """A user-defined layer with one learned factor per neuron."""

    def parameters(self, inputs: int) -> dict[str, Any]:
        return {"s": Parameter((inputs, 1), lambda rng, shape: np.ones(shape), decays=False)}

    def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
        return parameters["s"] * A_prev, A_prev

    def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
        m = cache.shape[1]
        return parameters["s"] * dA, {"s": ops.xp.sum(dA * cache, axis=1, keepdims=True) / m}


class SquaredError(dn.LossFunction):
    """A user-defined loss."""

    name = "squared"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return ops.xp.sum((A - Y) * (A - Y), axis=0, keepdims=True)

    def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
        return 2 * (A - Y)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: getattr(b, "name", b))
def test_user_defined_layers_activations_and_losses_train_on_every_backend(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    X, _ = blobs(60)
    Y = X[:2] * 0.5 + 1
    net = dn.Network([dn.Dense(8, Swish()), Scale(), dn.Dense(2)], inputs=4, backend=backend, seed=0, dtype="float64")
    assert list(net.parameters) == ["W1", "b1", "s2", "W3", "b3"]
    with caplog.at_level(logging.DEBUG, logger="deepnotes"):
        history = net.fit(X, Y, loss=SquaredError(), optimizer=dn.Adam(0.02), epochs=60)
    assert history.loss[-1] < 0.1 * history.loss[0]
    assert isinstance(net._training[1], EagerProgram)  # type: ignore[index]
    if backend == "numpy":
        assert "runs eagerly" in caplog.text
    h = 1e-6
    g = net.backend.to_numpy(net.gradients(X, Y, loss=SquaredError())["s2"])
    s = np.array(net.backend.to_numpy(net.parameters["s2"]))
    up, down = s.copy(), s.copy()
    up[3], down[3] = s[3] + h, s[3] - h
    costs = []
    for value in (up, down):
        net.parameters["s2"] = value
        costs.append(net.evaluate(X, Y, loss=SquaredError())["loss"])
    np.testing.assert_allclose((costs[0] - costs[1]) / (2 * h), g[3, 0], rtol=1e-6)


class HalvedDense(dn.Dense):
    """A dense layer whose output is half of its activation."""

    def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
        A, cache = super().forward(ops, parameters, A_prev, context)
        return A * 0.5, cache

    def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
        return super().backward(ops, parameters, cache, dA * 0.5)


def test_the_loss_is_not_fused_with_a_layer_derived_from_dense() -> None:
    """The outputs of the sigmoid are halved before the loss, so the fused gradient N11 does not apply."""
    X, _ = blobs(40)
    Y = (X[:1] > 1).astype(float)
    net = dn.Network([HalvedDense(1, "sigmoid")], inputs=4, seed=0, dtype="float64")
    A = net.predict(X)
    expected = -np.mean(Y * np.log(A) + (1 - Y) * np.log(1 - A))
    np.testing.assert_allclose(net.evaluate(X, Y)["loss"], expected, rtol=1e-12)
    h, g = 1e-6, net.gradients(X, Y)["W1"]
    W = np.array(net.parameters["W1"])
    costs = []
    for shift in (h, -h):
        net.parameters["W1"] = W + shift * np.eye(1, 4)
        costs.append(net.evaluate(X, Y)["loss"])
    np.testing.assert_allclose((costs[0] - costs[1]) / (2 * h), np.asarray(g)[0, 0], rtol=1e-6)


def test_parts_that_are_no_dataclasses_are_shown_with_their_attributes():
    class Power(dn.ActivationFunction):
        def __init__(self, exponent: int) -> None:
            self.exponent = exponent

    assert repr(Power(3)) == "Power(exponent=3)"
    assert [repr(type("Own", (kind,), {})()) for kind in (dn.LossFunction, dn.Optimizer)] == ["Own()", "Own()"]
