"""Predictions with dropout and noise: ``net.predict(X, samples=50)``."""

from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend

import deepnotes as dn
from deepnotes.backends import eager

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
X = np.random.default_rng(0).normal(size=(3, 7))


def network(backend: Any = "numpy", seed: int = 0, **settings: Any) -> dn.Network:
    layers = [dn.Dense(6, "tanh"), dn.Noise(0.1), dn.Residual([dn.Dense(6, "tanh"), dn.Dropout(0.4)]), dn.Dense(2)]
    return dn.Network(layers, inputs=3, backend=backend, dtype="float64", seed=seed, **settings)


def test_samples_differ_and_the_prediction_without_them_does_not_change() -> None:
    net = network()
    before = net.predict(X)
    A = net.predict(X, samples=4)
    assert A.shape == (4, 2, 7)
    assert all(not np.array_equal(A[i], A[j]) for i in range(4) for j in range(i))
    np.testing.assert_array_equal(net.predict(X), before)


def test_the_seed_determines_the_samples() -> None:
    net = network()
    A = net.predict(X, samples=4)
    np.testing.assert_array_equal(net.predict(X, samples=4), A)
    np.testing.assert_array_equal(net.predict(X, samples=6)[:4], A)
    np.testing.assert_array_equal(net.predict(X, samples=4, seed=net.seed), A)
    assert not np.array_equal(net.predict(X, samples=4, seed=1), A)
    other = network(seed=1)
    other.set_flat(net.flat())
    assert not np.array_equal(other.predict(X, samples=4), A)
    np.testing.assert_array_equal(other.predict(X, samples=4, seed=0), A)


def test_training_continues_as_without_the_prediction() -> None:
    nets = network(), network()
    nets[1].predict(X, samples=3)
    for net in nets:
        net.fit(X, X[:2], epochs=2)
    np.testing.assert_array_equal(nets[0].flat(), nets[1].flat())


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_the_same_on_every_backend(backend: str) -> None:
    net, wanted = network(BACKENDS[backend]()), network("numpy").predict(X, samples=3)
    np.testing.assert_allclose(net.predict(X, samples=3), wanted, rtol=1e-12)
    mean, std = net.predict(X, samples=3, return_std=True)
    np.testing.assert_allclose(mean, wanted.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, wanted.std(axis=0), rtol=1e-10)


def test_arrays_of_the_backend_return_arrays_of_the_backend() -> None:
    net = network(cupy_backend())
    native = net.backend.from_numpy(X)
    A = net.predict(native, samples=3)
    assert net.backend.is_array(A)
    np.testing.assert_array_equal(net.backend.to_numpy(A), net.predict(X, samples=3))
    for x, wanted in zip(net.predict(native, samples=3, return_std=True), (2, 7), strict=False):
        assert net.backend.is_array(x)
        assert wanted in x.shape


def test_mean_and_std_are_those_of_dropout() -> None:
    """After one linear layer, the mean is the prediction without dropout, and Σ w² a² p / (1 - p) the variance."""
    p, count = 0.25, 4000
    net = dn.Network([dn.Dropout(p), dn.Dense(1)], inputs=3, backend="numpy", dtype="float64", seed=0)
    mean, std = net.predict(X, samples=count, return_std=True)
    expected = np.sqrt((np.asarray(net.parameters["W1"]) ** 2) @ X**2 * p / (1 - p))
    assert (abs(mean - net.predict(X)) < 4 * expected / np.sqrt(count)).all()
    np.testing.assert_allclose(std, expected, rtol=0.1)


def test_the_std_of_noise_is_that_of_the_layer() -> None:
    net = dn.Network([dn.Noise(0.3), dn.Dense(1)], inputs=3, backend="numpy", dtype="float64", seed=0)
    _, std = net.predict(X, samples=4000, return_std=True)
    np.testing.assert_allclose(std, 0.3 * np.linalg.norm(net.parameters["W1"]), rtol=0.1)


def test_blocks_of_samples_have_the_masks_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    wanted = net.predict(X, samples=3)
    monkeypatch.setattr(eager, "ELEMENTS", 12)  # two samples
    np.testing.assert_allclose(net.predict(X, samples=3), wanted, rtol=1e-13)


def test_batch_norm_works_as_in_predictions() -> None:
    """A sample's predictions do not depend on the other samples."""
    layers = [dn.Dense(6), dn.BatchNorm(), dn.Dropout(0.4), dn.Dense(2)]
    net = dn.Network(layers, inputs=3, backend="numpy", dtype="float64", seed=0)
    net.fit(X, X[:2], epochs=2)
    before = net.flat()
    A, others = net.predict(X, samples=3), net.predict(X * [1, *[5] * 6], samples=3)
    np.testing.assert_array_equal(A[:, :, 0], others[:, :, 0])
    np.testing.assert_array_equal(net.flat(), before)


def test_a_standardizer_is_applied() -> None:
    standardizer = dn.Standardizer.fit(X)
    net = network(standardizer=standardizer)
    np.testing.assert_array_equal(net.predict(X, samples=2), network().predict(standardizer(X), samples=2))


class Doubling(dn.Layer):
    """A user-defined layer that doubles its inputs in training."""

    def forward(self, ops: Any, parameters: Any, A_prev: Any, context: dn.Context) -> Any:
        return (A_prev if context.step is None else 2 * A_prev), None

    def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
        return 2 * dA, {}


def test_a_layer_of_ones_own_may_be_random() -> None:
    net = dn.Network([dn.Dense(2), Doubling()], inputs=3, backend="numpy", seed=0)
    np.testing.assert_array_equal(net.predict(X, samples=1)[0], 2 * net.predict(X))


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([dn.Dense(1)], {"samples": 5}, "samples=5: all predictions would be equal, since the network has no layer of"),
        ([dn.Dropout(0), dn.Noise(0), dn.Dense(1)], {"samples": 5}, "no layer of Dropout or Noise with an effect"),
        ([dn.Dropout(0.5), dn.Dense(1)], {"samples": 0}, "samples=0, wanted a whole number of at least 1"),
        ([dn.Dropout(0.5), dn.Dense(1)], {"return_std": True}, "return_std needs samples, such as samples=50"),
        ([dn.Dropout(0.5), dn.Dense(1)], {"seed": 1}, "seed needs samples, such as samples=50"),
        ([dn.Dropout(0.5), dn.Dense(1)], {"samples": 2, "seed": -1}, "seed=-1, wanted a whole number of at least 0"),
    ],
)
def test_bad_arguments_are_refused(layers: Any, options: Any, message: str) -> None:
    net = dn.Network(layers, inputs=3, backend="numpy", seed=0)
    with pytest.raises(dn.ArgumentError) as error:
        net.predict(X, **options)
    assert message in str(error.value)
