"""Folding batch normalizations into dense layers: the same predictions, residual blocks, and what cannot be folded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

RNG = np.random.default_rng(5)
X, Y = RNG.normal(1.0, 2.0, (5, 60)), RNG.normal(size=(3, 60))
NETWORKS: dict[str, tuple[list[dn.Layer], list[str]]] = {
    "into the layer before": (
        [dn.Dense(6), dn.BatchNorm(), dn.PReLU(), dn.Dense(3), dn.BatchNorm()],
        ["Dense", "PReLU", "Dense"],
    ),
    "into the layer after": ([dn.BatchNorm(), dn.Dense(6, "relu"), dn.BatchNorm(), dn.Dense(3)], ["Dense", "Dense"]),
    "two in a row": ([dn.BatchNorm(), dn.BatchNorm(0.1), dn.Dense(3), dn.BatchNorm(), dn.BatchNorm()], ["Dense"]),
    "across dropout and noise": (
        [dn.Dense(6), dn.Dropout(0.5), dn.BatchNorm(), dn.LayerNorm(), dn.BatchNorm(), dn.Noise(0.1), dn.Dense(3)],
        ["Dense", "Dropout", "LayerNorm", "Noise", "Dense"],
    ),
    "at the start of residual blocks": (
        [
            dn.Dense(6),
            dn.Residual([dn.BatchNorm(), dn.Dense(6, "relu"), dn.Residual([dn.BatchNorm(), dn.Dense(6)])]),
            dn.Dense(3),
        ],
        ["Dense", "Dense", "Dense", "Shortcut", "Shortcut", "Dense"],
    ),
    "at the end of a residual block": (
        [
            dn.Dense(6, "tanh"),
            dn.Residual([dn.Dense(4, "relu"), dn.Dense(6), dn.BatchNorm()]),
            dn.BatchNorm(),
            dn.Dense(3),
        ],
        ["Dense", "Dense", "Dense", "Shortcut", "Dense"],
    ),
    "before a residual block": (
        [dn.Dense(6), dn.BatchNorm(), dn.Residual([dn.Dense(6, "tanh")]), dn.Dense(3)],
        ["Dense", "Dense", "Shortcut", "Dense"],
    ),
    "nothing": ([dn.Dense(4, "relu"), dn.Dense(3)], ["Dense", "Dense"]),
}  # fmt: skip


def trained(layers: list[dn.Layer], dtype: str = "float64", backend: str = "numpy") -> dn.Network:
    """Return a network whose parameters and statistics are not their initial values."""
    net = dn.Network(layers, inputs=5, dtype=dtype, backend=backend, seed=0)
    net.fit(X, Y, epochs=3, batch_size=10)
    rng = np.random.default_rng(1)
    for name, value in net.parameters.items():
        net.parameters[name] = value * rng.uniform(0.5, 1.5, value.shape)
    return net


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_makes_the_same_predictions(name: str, dtype: str, backend: str) -> None:
    layers, kinds = NETWORKS[name]
    net = trained(layers, dtype, backend)
    before, expected = net.flat(), net.predict(X)
    folded = net.folded()
    assert [type(layer).__name__ for layer in folded.layers] == kinds
    assert folded.backend is net.backend
    assert folded.dtype == dtype
    scale = abs(expected).max()
    np.testing.assert_allclose(
        folded.predict(X), expected, rtol=0, atol=scale * (1e-5 if dtype == "float32" else 1e-13)
    )
    assert abs(net.predict(X) - expected).max() == 0
    np.testing.assert_array_equal(net.flat(), before)
    assert folded.theta is not net.theta


def test_a_folded_network_has_the_standardizer_and_the_metadata(tmp_path: Path) -> None:
    standardizer = dn.Standardizer.fit(X)
    layers = [dn.BatchNorm(), dn.Dense(3, "softmax")]
    with dn.defaults("torch"):
        net = dn.Network(layers, inputs=5, backend="numpy", dtype="float64", seed=7, standardizer=standardizer)
    net.metadata = {"classes": ["a", "b", "c"]}
    net.fit(X, np.arange(60) % 3, epochs=2)
    folded = net.folded()
    assert (folded.metadata, folded.seed, folded.dialect) == (net.metadata, 7, "torch")
    assert folded.metadata is not net.metadata
    folded.save(tmp_path / "net.dn")
    np.testing.assert_allclose(dn.load(tmp_path / "net.dn", backend="numpy").predict(X), net.predict(X), atol=1e-13)


@pytest.mark.parametrize(
    ("layers", "index"),
    [
        ([dn.Dense(5, "relu"), dn.BatchNorm()], 1),
        ([dn.BatchNorm(), dn.LayerNorm(), dn.Dense(3)], 0),
        ([dn.BatchNorm(), dn.Dense(3), dn.Dense(5, "relu"), dn.BatchNorm(), dn.PReLU()], 3),
        ([dn.Dense(5), dn.Residual([dn.BatchNorm()]), dn.Dense(3)], 1),
        ([dn.Dense(5, "relu"), dn.BatchNorm(), dn.Residual([dn.Dense(5)]), dn.Dense(3)], 1),
    ],
)
def test_what_cannot_be_folded_is_an_error(layers: Any, index: int) -> None:
    net = dn.Network(layers, inputs=5, backend="numpy", seed=0)
    with pytest.raises(
        dn.ArgumentError, match=rf"^layers\[{index}\]: BatchNorm\(.*\) cannot be folded: wanted a Dense"
    ):
        net.folded()


def test_numbers_that_overflow_are_an_error() -> None:
    net = dn.Network([dn.BatchNorm(1e-30), dn.Dense(3)], inputs=5, backend="numpy", seed=0)
    net.parameters["running_var1"] = np.zeros((5, 1))
    net.parameters["gamma1"] = np.full((5, 1), 1e30)
    with pytest.raises(dn.ArgumentError, match="not finite in float32"):
        net.folded()
