"""The compiled Program of each backend trains as the eager Program does."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from plans import NETWORKS, OPTIMIZERS, programs

import deepnotes as dn
from deepnotes.backends.program import Batches, Data
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import Loss, check_pair
from deepnotes.utils.errors import ArgumentError

BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")),
]
RATES = np.full(9, 0.05)


def samples(net: dn.Network, targets: str, m: int = 23, dtype: str = "float64") -> Data:
    """Return random data with targets that are class indices, distributions, bits or numbers."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(m, 5)).astype(dtype).T
    k = net.outputs
    if targets == "class indices":
        return Data(X, rng.integers(0, k, (1, m)))
    Y = rng.uniform(size=(k, m))
    if targets == "bits":
        Y = Y.round()
    if targets == "distributions":
        Y = Y / Y.sum(axis=0)
    return Data(X, Y.astype(dtype))


def train(pair: list[Any], states: list[Any], data: Data, batch: int = 8) -> list[Any]:
    """Train each Program on three epochs of 23 samples; a batch may span two epochs, and the last one is smaller."""
    rng = np.random.default_rng(6)
    order = np.concatenate([rng.permutation(23) for _ in range(3)])
    with np.errstate(all="ignore"):
        return [p.train(s, Batches(data, order, batch, RATES)) for p, s in zip(pair, states, strict=True)]


def assert_close(pair: list[Any], states: list[Any], chunks: list[Any]) -> None:
    """Check that the two Programs agree, except for effects of the order of terms in products and sums."""
    assert chunks[0].steps == chunks[1].steps == 9
    np.testing.assert_allclose(chunks[1].loss_sum, chunks[0].loss_sum, rtol=1e-12)
    np.testing.assert_allclose(chunks[1].weight_sum, chunks[0].weight_sum, rtol=1e-14)
    np.testing.assert_allclose(states[1].theta, states[0].theta, rtol=0, atol=1e-12)
    for slot, expected in zip(states[1].slots, states[0].slots, strict=True):
        np.testing.assert_allclose(slot, expected, rtol=0, atol=1e-10 * max(1.0, float(np.abs(expected).max())))


TARGETS = {"categorical": "class indices", "binary": "bits", "regression": "numbers", "unfused": "distributions"}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", ["by sample", "by feature", "strided", "read-only"])
def test_every_optimizer_trains_as_the_eager_program(
    backend: str, kind: str, optimizer: dn.Optimizer, weighted: bool, layout: str
) -> None:
    layers, loss = NETWORKS[kind]
    pair, states, net = programs(backend, layers, loss=loss, optimizer=optimizer, class_indices=kind == "categorical")
    X: Any
    X, Y, _ = samples(net, TARGETS[kind])
    if layout == "by feature":
        X = np.ascontiguousarray(X)
    elif layout == "strided":
        wide = np.zeros((10, 46))
        wide[::2, ::2] = X
        X = wide[::2, ::2]
    elif layout == "read-only":
        X.flags.writeable = False
    w = np.random.default_rng(5).uniform(size=(1, 23)) if weighted else None
    assert_close(pair, states, train(pair, states, Data(X, Y, w)))


def allowed_pairs() -> list[Any]:
    """Return all allowed pairs of an output activation and a loss."""
    allowed = []
    for activation in ACTIVATIONS:
        for name in LOSSES:
            try:
                check_pair(Loss(name), dn.Activation(activation))
            except ArgumentError:
                continue
            allowed.append((activation, name))
    return allowed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("activation", "loss"), allowed_pairs())
def test_every_pair_of_activation_and_loss_trains_as_the_eager_program(
    backend: str, activation: str, loss: str
) -> None:
    diverging = activation in {"exp", "log_softmax"}  # numbers in several layers of them grow without bound
    hidden = "tanh" if diverging else activation
    layers: list[dn.Layer] = [dn.Dense(7, hidden), dn.Dropout(0.2), dn.Dense(6, hidden), dn.Dense(3, activation)]
    pair, states, net = programs(backend, layers, loss=loss, optimizer=dn.SGD(0.1), l2=0.0, clip_norm=None)
    targets = {"simplex": "distributions", "unit": "bits"}.get(LOSSES[loss].targets, "numbers")
    assert_close(pair, states, train(pair, states, samples(net, targets)))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(1, 1), (40, 33), (300, 120)], ids=str)
def test_errors_in_float32_are_comparable_to_those_of_the_eager_program(
    backend: str, activation: str, sizes: tuple[int, int]
) -> None:
    """The error is at most 4 times that of the eager Program, plus 8 roundings of the largest parameter."""
    layers: list[dn.Layer] = [*(dn.Dense(n, activation) for n in sizes), dn.Dense(2)]
    results = {}
    for dtype in ("float64", "float32"):
        pair, states, net = programs(backend, layers, dtype, optimizer=dn.SGD(0.05), l2=0.0)
        train(pair, states, samples(net, "numbers", dtype=dtype))
        results[dtype] = [np.asarray(s.theta, dtype=np.float64) for s in states]
    reference = results["float64"][0]
    eager, compiled = (np.abs(theta - reference).max() for theta in results["float32"])
    assert compiled <= 4 * eager + 8 * np.finfo("float32").eps * np.abs(reference).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_of_different_sizes_do_not_affect_each_other(backend: str) -> None:
    layers, _ = NETWORKS["categorical"]
    pair, states, net = programs(backend, layers, optimizer=dn.Adam(), class_indices=True)
    data = samples(net, "class indices")
    for size in (8, 3, 23, 1, 8, 5):
        chunks = [
            p.train(s, Batches(data, np.arange(size), size, RATES[:1])) for p, s in zip(pair, states, strict=True)
        ]
        np.testing.assert_allclose(chunks[1].loss_sum, chunks[0].loss_sum, rtol=1e-12)
        np.testing.assert_allclose(states[1].theta, states[0].theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "softmax"])
def test_nan_stops_training_before_the_update(backend: str, activation: str) -> None:
    layers: list[dn.Layer] = [dn.Dense(4, activation), dn.Dense(1)]
    pair, states, net = programs(backend, layers, optimizer=dn.SGD(0.1))
    data = samples(net, "numbers")
    X, Y = np.array(data.X), data.Y
    X[2, 5] = np.nan
    before = np.array(states[1].theta)
    chunk = train(pair, states, Data(X, Y), batch=23)[1]
    assert chunk.steps == 0
    assert np.isnan(chunk.cost)
    np.testing.assert_array_equal(states[1].theta, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_changes_to_the_data_between_calls_take_effect(backend: str) -> None:
    layers, _ = NETWORKS["categorical"]
    pair, states, net = programs(backend, layers, optimizer=dn.Adam(), class_indices=True)
    data = samples(net, "class indices")
    for _ in range(2):
        train(pair, states, data)
        np.asarray(data.Y)[...] = np.asarray(data.Y)[:, ::-1].copy()
        np.asarray(data.X)[...] *= 0.5
    np.testing.assert_allclose(states[1].theta, states[0].theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_twice_from_the_same_start_gives_the_same_bits(backend: str) -> None:
    layers, _ = NETWORKS["categorical"]
    results = []
    for _ in range(2):
        pair, states, net = programs(backend, layers, optimizer=dn.Adam(), class_indices=True)
        train(pair[1:], states[1:], samples(net, "class indices"))
        results.append(np.array(states[1].theta))
    np.testing.assert_array_equal(*results)
