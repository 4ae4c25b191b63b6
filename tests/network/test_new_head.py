"""Networks with a new head: the kept layers have the parameters that they had, and the others new ones."""

from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend

import deepnotes as dn

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
X = np.random.default_rng(0).normal(size=(4, 30))
HEAD = [dn.Dense(6, "relu"), dn.Dense(3, "softmax")]


def network(**options: Any) -> dn.Network:
    layers = [dn.Dense(8, "relu"), dn.LayerNorm(), dn.Dropout(0.2), dn.Dense(5, "softmax")]
    net = dn.Network(layers, inputs=4, seed=1, standardizer=dn.Standardizer.fit(X), **options)
    net.parameters["b1"] = np.arange(8.0).reshape(8, 1)
    return net


@pytest.mark.parametrize("backend", BACKENDS)
def test_kept_layers_have_the_same_outputs(backend: str) -> None:
    net = network(backend=BACKENDS[backend](), dtype="float64")
    before = net.flat()
    new = net.with_head(HEAD)
    assert (new.layers, new.outputs) == ((*net.layers[:3], *HEAD), 3)
    assert (new.backend, new.dtype, new.seed, new.standardizer) == (net.backend, "float64", 1, net.standardizer)
    np.testing.assert_array_equal(new.activations(X, layer=2), net.activations(X, layer=2))
    new.fit(X, np.arange(30) % 3, epochs=1)
    np.testing.assert_array_equal(net.flat(), before)


def test_new_layers_are_drawn_by_the_seed() -> None:
    net = network()
    first, again, other = net.with_head(HEAD), net.with_head(HEAD), net.with_head(HEAD, seed=2)
    np.testing.assert_array_equal(first.flat(), again.flat())
    for name, values in first.parameters.items():
        is_new_weight = name in ("W3", "W4")
        assert np.array_equal(values, other.parameters[name]) == (not is_new_weight)
    assert other.seed == 2


@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (2, 2), (4, 4), (-1, 3), (-3, 1)])
def test_any_number_of_first_layers_is_kept(keep: int, kept: int) -> None:
    net = network()
    new = net.with_head(HEAD, keep=keep)
    assert new.layers == (*net.layers[:kept], *HEAD)
    names = [name for name, entry in net.layout.entries.items() if entry.layer < kept]
    assert {"W1", "b1"} <= set(names)
    for name in names:
        np.testing.assert_array_equal(new.parameters[name], net.parameters[name])


def test_residual_blocks_are_kept() -> None:
    net = dn.Network([dn.Residual([dn.Dense(4, "tanh"), dn.Dense(4)]), dn.Dense(2)], inputs=4, seed=0)
    new = net.with_head([dn.Dense(3)])
    np.testing.assert_array_equal(new.activations(X, layer=2), net.activations(X, layer=2))


def test_the_dialect_is_that_of_the_network() -> None:
    with dn.defaults("torch"):
        net = dn.Network([dn.Dense(8, "relu"), dn.Dense(5)], inputs=4, seed=0)
    new = net.with_head([dn.Dense(5)])
    assert new.dialect == "torch"
    assert (new.layers, np.any(np.asarray(new.parameters["b2"]))) == (net.layers, True)


def test_metadata_are_not_copied() -> None:
    net = network()
    net.metadata = {"classes": ["a", "b", "c", "d", "e"]}
    assert net.with_head(HEAD).metadata == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_head_is_trained_on_frozen_layers(backend: str) -> None:
    new = network(backend=BACKENDS[backend]()).with_head(HEAD)
    start = {name: np.array(new.backend.to_numpy(x)) for name, x in new.parameters.items()}
    history = new.fit(X, np.arange(30) % 3, epochs=20, layer_rates={1: 0, 2: 0}, optimizer=dn.Adam(0.02))
    assert history.loss[-1] < history.loss[0]
    for name, x in new.parameters.items():
        assert np.array_equal(new.backend.to_numpy(x), start[name]) == (name[-1] in "12")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, r"layers=\[\], wanted a list of at least one layer"),
        ({"layers": dn.Dense(3)}, "layers=Dense"),
        ({"layers": [dn.Dense(3), "softmax"]}, r"layers\[1\]='softmax', wanted a deepnotes Layer"),
        ({"keep": 0}, r"keep=0, wanted a slice net.layers\[:keep\] of 1 to 4 layers"),
        ({"keep": 5}, "keep=5, wanted a slice"),
        ({"keep": -4}, "keep=-4, wanted a slice"),
        ({"keep": -5}, "keep=-5, wanted a whole number of at least -4"),
        ({"keep": 1.0}, "keep=1.0, wanted a whole number"),
        ({"keep": True}, "keep=True, wanted a whole number"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        network().with_head(**{"layers": HEAD} | arguments)
