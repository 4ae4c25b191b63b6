"""User-defined parts whose results have another form than documented are refused, before anything changes."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn

X = np.random.default_rng(0).normal(size=(3, 6))
BACKENDS = ["numpy", pytest.param("numba", marks=pytest.mark.filterwarnings("ignore"))]


class Total(dn.LossFunction):
    """The sum over the samples, too: a number."""

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return ops.xp.sum((A - Y) * (A - Y))


class Flat(Total):
    """One loss for each sample, but without the first axis."""

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return ops.xp.sum((A - Y) * (A - Y), axis=0)


class Each(Total):
    """One loss for each output of each sample, of which the cost would be the sum over the outputs."""

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return (A - Y) * (A - Y)

    def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
        return 2 * (A - Y)


def network(backend: str = "numpy") -> dn.Network:
    if backend == "numba":
        pytest.importorskip("numba")
    return dn.Network([dn.Dense(2)], inputs=3, seed=0, dtype="float64", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("loss", "shape"), [(Total(), ()), (Flat(), (6,)), (Each(), (2, 6))])
def test_a_loss_returns_one_value_per_sample(loss: dn.LossFunction, shape: tuple[int, ...], backend: str) -> None:
    net = network(backend)
    before = net.flat()
    name = type(loss).__name__
    for method in ("trace", "evaluate", "gradients", "fit"):
        with pytest.raises(
            dn.ShapeError, match=name + r"\.value returned shape \(.*wanted \(1, 6\).*keepdims=True"
        ) as error:
            getattr(net, method)(X, X[:2], loss=loss)
        assert str(shape) in str(error.value)
    np.testing.assert_array_equal(net.flat(), before)
    with pytest.raises(dn.ShapeError, match=name):
        dn.check(loss)


def test_with_one_output_a_loss_may_have_the_shape_of_the_outputs() -> None:
    net = dn.Network([dn.Dense(1)], inputs=3, seed=0, dtype="float64")
    assert dn.check_gradients(net, X, X[:1], loss=Each()).passed


class Bare(dn.Optimizer):
    """The next θ alone."""

    learning_rate = 0.1

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta - scalars["rate"] * g


class Triple(Bare):
    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta, g, g


class Undeclared(Bare):
    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta, (g,)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("average", [None, dn.EMA(0.9)])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Bare(), r"Bare\.update returned an array, wanted two values: .*\(\) if there are none"),
        (Triple(), r"Triple\.update returned a tuple of 3 values, wanted two"),
        (Undeclared(), r"Undeclared\.update: the number of slots returned is 1, wanted 0, as in its .* slots, \(\)"),
    ],
)
def test_an_optimizer_returns_theta_and_its_slots(optimizer: Any, message: str, average: Any, backend: str) -> None:
    net = network(backend)
    before = net.flat()
    with pytest.raises(dn.ArgumentError, match=message):
        net.fit(X, X[:2], optimizer=optimizer, average=average)
    np.testing.assert_array_equal(net.flat(), before)


def test_a_class_where_an_object_belongs_is_named() -> None:
    net = network()
    with pytest.raises(dn.UnknownNameError, match=r"^optimizer is the class Bare, wanted an object of it: Bare\(\)$"):
        net.fit(X, X[:2], optimizer=Bare)
    with pytest.raises(dn.UnknownNameError, match=r"loss is the class Total, .*: Total\(\)"):
        net.fit(X, X[:2], loss=Total)
    with pytest.raises(dn.UnknownNameError, match="activation is the class"):
        dn.Dense(2, type("Own", (dn.ActivationFunction,), {}))
