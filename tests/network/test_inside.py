"""The outputs of hidden layers, and the derivatives by the inputs, compared with central differences."""

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn

X = np.random.default_rng(0).normal(size=(3, 5))
Y = np.eye(2)[:, [0, 1, 1, 0, 1]]
H = 2.0**-17
STRICT = dn.Backend("strict", array_api_strict)


def network(backend="numpy", standardizer=None, dropout=0.5, last="softmax"):
    layers = [dn.Dense(4, "tanh"), dn.Dropout(dropout), dn.Dense(6, "gelu"), dn.Dense(2, last)]
    return dn.Network(layers, 3, backend=backend, dtype="float64", seed=0, standardizer=standardizer)


STANDARDIZER = dn.Standardizer(np.array([[1.0], [2.0], [3.0]]), np.array([[0.5], [2.0], [4.0]]))


@pytest.mark.parametrize("backend", ["numpy", "numba", STRICT])
def test_the_jacobian_of_no_samples_is_empty(backend) -> None:
    net = network(backend, STANDARDIZER)
    assert net.jacobian(X[:, :0]).shape == (2, 3, 0)
    assert net.activations(X[:, :0], -1).shape == (2, 0)


@pytest.mark.parametrize("function", [dn.check_gradients, dn.learning_rate_test])
def test_what_is_not_a_network_is_refused(function) -> None:
    for other in (dn.Ensemble([network(), network()]), "net", None):
        with pytest.raises(dn.ArgumentError, match="wanted a Network"):
            function(other, X, Y)


def test_activations_are_the_outputs_of_each_layer() -> None:
    """N2 and N3, one layer after the other."""
    net = network()
    outputs = net.activations(X)
    assert list(outputs) == ["A1", "A1_dropout", "A2", "A3"]
    p = net.parameters
    np.testing.assert_allclose(outputs["A1"], np.tanh(p["W1"] @ X + p["b1"]), rtol=1e-12)
    np.testing.assert_array_equal(outputs["A1_dropout"], outputs["A1"], "predictions have no dropout")
    np.testing.assert_allclose(outputs["A3"], net.predict(X), rtol=1e-12)
    for layer, name in {1: "A1", 2: "A2", 3: "A3", -1: "A3", -2: "A2", -3: "A1"}.items():
        np.testing.assert_array_equal(net.activations(X, layer=layer), outputs[name])
    np.testing.assert_array_equal(net.activations(X, layer=0), X)
    assert outputs["A2"].shape == (6, 5)


@pytest.mark.parametrize("layer", [4, -4, 1.5, True, "2"])
def test_a_layer_that_does_not_exist_is_refused(layer) -> None:
    with pytest.raises(dn.ArgumentError, match="layer"):
        network().activations(X, layer=layer)


@pytest.mark.parametrize("backend", ["numpy", STRICT], ids=["numpy", "strict"])
@pytest.mark.parametrize("standardizer", [None, STANDARDIZER], ids=["plain", "standardized"])
@pytest.mark.parametrize("loss", [None, "mean_squared_error"])
def test_the_gradient_by_the_inputs_agrees_with_central_differences(backend, standardizer, loss) -> None:
    """N15, one layer further."""
    net = network(backend, standardizer)
    dX = net.input_gradient(X, Y, loss=loss)
    assert isinstance(dX, np.ndarray)
    for i in range(3):
        step = H * (np.arange(3)[:, None] == i)
        above, below = (
            [net.evaluate((X + s)[:, [j]], Y[:, [j]], loss=loss)["loss"] for j in range(5)] for s in (step, -step)
        )
        np.testing.assert_allclose(dX[i], (np.array(above) - below) / (2 * H), atol=1e-9)


def test_weights_scale_the_gradient_of_each_sample() -> None:
    net, w = network(), np.array([1.0, 2.0, 3.0, 2.0, 2.0])
    expected = net.input_gradient(X, Y) * (w / w.mean())
    np.testing.assert_allclose(net.input_gradient(X, Y, sample_weight=w), expected, rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", STRICT], ids=["numpy", "strict"])
@pytest.mark.parametrize("last", ["softmax", "identity", "sigmoid"])
@pytest.mark.parametrize("standardizer", [None, STANDARDIZER], ids=["plain", "standardized"])
def test_the_jacobian_agrees_with_central_differences(backend, last, standardizer) -> None:
    net = network(backend, standardizer, last=last)
    J = net.jacobian(X)
    assert J.shape == (2, 3, 5)
    for i in range(3):
        step = H * (np.arange(3)[:, None] == i)
        np.testing.assert_allclose(J[:, i], (net.predict(X + step) - net.predict(X - step)) / (2 * H), atol=1e-9)


def test_arrays_of_the_backend_stay_there() -> None:
    net = network(STRICT)
    native = array_api_strict.asarray(X)
    assert isinstance(net.activations(native, layer=1), type(native))
    assert isinstance(net.activations(X, layer=1), np.ndarray)
    assert isinstance(net.jacobian(native), type(native))
    assert isinstance(net.input_gradient(native, Y), type(native))


def test_wrong_shapes_are_refused() -> None:
    net = network()
    for call in (net.activations, net.jacobian, lambda X: net.input_gradient(X, Y)):
        with pytest.raises(dn.ShapeError, match="X"):
            call(X[:2])
