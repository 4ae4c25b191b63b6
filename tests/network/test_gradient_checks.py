"""``check_gradients`` finds wrong gradients, passes right ones, and reports kinks as such."""

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import check_pair

X = np.random.default_rng(0).normal(size=(3, 5))


def targets(loss, outputs):
    rng = np.random.default_rng(1)
    return {
        "real": rng.normal(size=(outputs, 5)),
        "count": rng.poisson(2, (outputs, 5)).astype(float),
        "unit": rng.uniform(size=(outputs, 5)),
        "simplex": np.eye(outputs)[:, np.arange(5) % outputs],
    }[loss.targets]


@pytest.mark.parametrize("last", ["sigmoid", "softmax", "identity", "softplus", "exp"])
def test_the_gradients_of_every_activation_and_loss_pass(last) -> None:
    """N11 to N15 for networks of three layers."""
    losses = [dn.Loss(name) for name in LOSSES if is_allowed(name, last)]
    for i, g in enumerate(ACTIVATIONS):
        loss = losses[i % len(losses)]
        net = dn.Network([dn.Dense(4, g), dn.Dropout(0.2), dn.Dense(3, last)], 3, backend="numpy", seed=1)
        options = {"loss": loss, "l1": 0.03, "l2": 0.1, "sample_weight": [1, 2, 3, 1, 2]}
        report = dn.check_gradients(net, X, targets(loss, 3), elements=5, **options)
        assert report.passed, f"{g}, {loss}\n{report}"
        assert [check.name for check in report.parameters] == ["W1", "b1", "W2", "b2"]
        assert 0 < report.error < 1e-6


def is_allowed(loss, activation):
    try:
        check_pair(dn.Loss(loss), dn.Activation(activation))
    except dn.ArgumentError:
        return False
    return True


class WrongActivation(dn.ActivationFunction):
    """``g = z²`` with half of its slope."""

    def forward(self, ops, Z):
        return Z * Z

    def backward(self, ops, dA, Z, A):
        return dA * Z


class WrongLoss(dn.LossFunction):
    """The squared error with a derivative that is 0.1 % too large."""

    def value(self, ops, A, Y):
        return ops.mean_squared_error(A, Y)

    def derivative(self, ops, A, Y):
        return 1.001 * ops.mean_squared_error_derivative(A, Y)


class WrongLayer(dn.Layer):
    """A factor whose own gradient lacks the mean over the samples."""

    def parameters(self, inputs):
        return {"s": dn.Parameter((inputs, 1), lambda rng, shape: np.ones(shape), True)}

    def forward(self, ops, parameters, A_prev, context):
        return A_prev * parameters["s"], A_prev

    def backward(self, ops, parameters, cache, dA):
        return dA * parameters["s"], {"s": 5.0 * ops.bias_gradient(dA * cache)}


@pytest.mark.parametrize(
    ("layers", "loss", "wrong"),
    [
        ([dn.Dense(4, WrongActivation()), dn.Dense(2)], None, {"W1", "b1"}),
        ([dn.Dense(4, "tanh"), dn.Dense(2)], WrongLoss(), {"W1", "b1", "W2", "b2"}),
        ([dn.Dense(4, "tanh"), WrongLayer(), dn.Dense(2)], None, {"s2"}),
    ],
)
def test_wrong_gradients_are_found_and_named(layers, loss, wrong) -> None:
    net = dn.Network(layers, 3, backend="numpy", seed=0)
    report = dn.check_gradients(net, X, X[:2], loss=loss)
    assert not report.passed
    assert {check.name for check in report.parameters if not check.passed} == wrong
    lines = str(report).splitlines()
    for check in report.parameters:
        row = next(line for line in lines if line.split()[0] == check.name)
        assert row.split()[-1] == ("ok" if check.passed else "WRONG")
        named = any(line.startswith(f"{check.name}[") for line in lines)
        assert named == (not check.passed)
        entry = net.gradients(X, X[:2], loss=loss)[check.name]
        assert entry[check.worst] == pytest.approx(check.gradient, rel=1e-4)


def test_kinks_do_not_count() -> None:
    """With N8 at exactly 0, the slope is a convention."""
    net = dn.Network([dn.Dense(6, "relu"), dn.Dense(2)], 3, backend="numpy", seed=0)
    report = dn.check_gradients(net, np.zeros((3, 5)), X[:2])
    checks = {check.name: check for check in report.parameters}
    assert report.passed
    assert (checks["b1"].checked, checks["b1"].kinks) == (0, 6)
    assert (checks["W1"].checked, checks["W1"].kinks) == (18, 0)


def test_large_parameters_are_checked_at_random_elements() -> None:
    net = dn.Network([dn.Dense(40, "tanh"), dn.Dense(2)], 30, backend="numpy", seed=0)
    data = np.random.default_rng(0).normal(size=(30, 4)), np.zeros((2, 4))
    report = dn.check_gradients(net, *data, elements=7)
    assert [check.checked for check in report.parameters] == [7, 7, 7, 2]
    assert report.passed
    assert report == dn.check_gradients(net, *data, elements=7)


def test_gradients_of_0_pass() -> None:
    net = dn.Network([dn.Dense(2, "tanh"), dn.Dense(2)], 3, backend="numpy", seed=0, dtype="float64")
    assert dn.check_gradients(net, X, net.predict(X)).passed


def test_the_network_is_unchanged_and_its_standardizer_is_used() -> None:
    standardizer = dn.Standardizer(np.full((3, 1), 2.0), np.full((3, 1), 0.5))
    net = dn.Network([dn.Dense(2, "tanh"), dn.Dense(2)], 3, backend="numpy", seed=0, standardizer=standardizer)
    before = net.flat()
    report = dn.check_gradients(net, X, X[:2])
    assert report.cost == pytest.approx(net.evaluate(X, X[:2])["loss"], rel=1e-5)
    np.testing.assert_array_equal(net.flat(), before)
    assert net.dtype == "float32"


def test_a_backend_without_float64_is_checked_on_numpy() -> None:
    backend = dn.Backend("narrow", np)
    backend.dtypes = ("float32", "int64")
    net = dn.Network([dn.Dense(2, "tanh"), dn.Dense(2)], 3, backend=backend, seed=0)
    assert dn.check_gradients(net, X, X[:2]).passed


def test_wrong_arguments_are_refused() -> None:
    net = dn.Network([dn.Dense(2)], 3, backend="numpy", seed=0)
    with pytest.raises(dn.ArgumentError, match="elements"):
        dn.check_gradients(net, X, X[:2], elements=0)
    with pytest.raises(dn.ShapeError, match="Y"):
        dn.check_gradients(net, X, X)


def test_a_notebook_shows_a_table() -> None:
    net = dn.Network([dn.Dense(2)], 3, backend="numpy", seed=0)
    shown = dn.check_gradients(net, X, X[:2])._repr_html_()
    assert shown.startswith("<table>")
    assert "central differences" in shown
