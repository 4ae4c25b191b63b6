"""Layers by feature, shortcuts and noise on the CuPy backend, on the stand-in for a device."""

from typing import Any

import numpy as np
import pytest
from host_device import backend

import deepnotes as dn
from deepnotes_cupy import step
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.inference import CupyInference
from deepnotes_cupy.program import CupyProgram

FEATURES = 7
NETWORKS: dict[str, list[dn.Layer]] = {
    "normalization": [dn.Dense(9), dn.LayerNorm(), dn.Dense(5, "relu"), dn.RMSNorm(), dn.Dense(3, "softmax")],
    "first": [dn.LayerNorm(), dn.Dense(3, "softmax")],
    "last": [dn.Dense(3), dn.LayerNorm(), dn.PReLU()],
    "wide": [dn.Dense(150), dn.PReLU(), dn.LayerNorm(), dn.Dense(3, "softmax")],
    "gates": [dn.GLU(6), dn.SwiGLU(5), dn.Dense(3, "softmax")],
    "of the inputs": [dn.Residual([dn.Dropout(0.2), dn.Dense(FEATURES, "tanh")]), dn.Dense(3, "softmax")],
    "nested": [
        dn.Dense(8, "relu"),
        dn.Residual([dn.LayerNorm(), dn.Dense(8, "silu"), dn.Residual([dn.Noise(0.1), dn.Dense(8)])]),
        dn.Residual([dn.Dropout(0.1), dn.Dense(8)]),
        dn.Dense(3, "softmax"),
    ],
    "embedding": [dn.Embedding({1: (5, 2), 4: (30, 3)}), dn.Dense(6, "tanh"), dn.Dense(3, "softmax")],
    "embedding first": [dn.Embedding(dict.fromkeys(range(FEATURES), (4, 1))), dn.LayerNorm(), dn.Dense(3, "softmax")],
    "embedding in a block": [
        dn.Embedding({0: (9, 1)}),
        dn.Residual([dn.Dense(FEATURES, "tanh")]),
        dn.Dense(3, "softmax"),
    ],
    "batch norm": [
        dn.BatchNorm(0.1),
        dn.Dense(37, "tanh"),
        dn.Dropout(0.2),
        dn.BatchNorm(),
        dn.Residual([dn.Dense(37)]),
        dn.Dense(3, "softmax"),
    ],
    "noise": [dn.Noise(0.3), dn.Dense(6, "relu"), dn.Noise(0.1), dn.Dropout(0.3), dn.Dense(3, "softmax")],
}


def draw(name: str, count: int, dtype: str, seed: int) -> np.ndarray:
    """Return samples for a network; its columns with a table have indices of categories."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(FEATURES, count)).astype(dtype)
    first = NETWORKS[name][0]
    for column, categories, _ in first if isinstance(first, dn.Embedding) else ():
        X[column] = rng.integers(0, categories, count)
    return X


def fit(name: str, dtype: str, target: dn.Backend) -> tuple[dn.Network, list[float]]:
    """Train a network, and return it with its losses."""
    rng, X = np.random.default_rng(0), draw(name, 61, dtype, 0)
    weights, Y = rng.uniform(0.5, 2.0, 61), np.eye(3)[rng.integers(0, 3, 61)].T
    net = dn.Network(NETWORKS[name], FEATURES, seed=1, dtype=dtype, backend=target)
    settings: dict[str, Any] = {"optimizer": dn.Adam(0.01), "batch_size": 16, "shuffle": False, "clip_norm": 1.0}
    return net, net.fit(X, Y, epochs=2, sample_weight=weights, l2=0.01, **settings).loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_train_and_predict_in_graphs_like_the_equations(name: str, dtype: str) -> None:
    target = backend()
    (net, loss), (reference, expected) = fit(name, dtype, target), fit(name, dtype, dn.Backend("eager", np))
    assert type(net._training[1]) is CupyProgram  # type: ignore[index]
    assert type(net.inference) is CupyInference
    assert target.device.count("graph") > 0
    tolerance = {"float32": 2e-6, "float64": 4e-15}[dtype]
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    np.testing.assert_allclose(net.flat(), reference.flat(), rtol=0, atol=tolerance)
    X = draw(name, 40, dtype, 1)
    for samples in (1, 40):
        found, wanted = net.predict(X[:, :samples]), reference.predict(X[:, :samples])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["normalization", "gates", "nested", "embedding in a block", "batch norm"])
def test_the_bits_do_not_depend_on_concurrency(monkeypatch: pytest.MonkeyPatch, name: str, late: bool) -> None:
    """The gradients of parameters may be computed beside the derivatives of the layers before, early or late."""
    target = backend()
    target.device.late = late
    beside, _ = fit(name, "float32", target)
    monkeypatch.setattr(step, "CONCURRENT", 0)
    one_by_one, _ = fit(name, "float32", backend())
    assert beside.flat().tobytes() == one_by_one.flat().tobytes()


@pytest.mark.parametrize("name", ["wide", "gates", "nested", "embedding in a block", "batch norm"])
def test_their_kernels_access_no_memory_that_they_must_not(name: str) -> None:
    target = backend()
    target.device.checked = True
    net, _ = fit(name, "float32", target)
    assert np.isfinite(net.flat()).all()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["normalization", "of the inputs", "nested", "batch norm"])
def test_products_between_them_have_rounded_factors(name: str, precision: str) -> None:
    target: CupyBackend = backend(precision)
    (net, _), (reference, _) = fit(name, "float32", target), fit(name, "float32", backend())
    assert 0 < abs(net.flat() - reference.flat()).max() < 0.05


def test_training_in_shared_memory_refuses_them() -> None:
    net = dn.Network(NETWORKS["first"], FEATURES, seed=0, backend=backend(driver="resident"))
    with pytest.raises(dn.ArgumentError, match="there are layers other than Dense and Dropout"):
        net.fit(np.ones((FEATURES, 8)), np.zeros(8, int), epochs=1)
