"""Muon: compared with PyTorch, on every backend, resumed, and with layers that have other parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from literature_cases import DATA, by_name
from test_regularized_training import BACKENDS, BATCHES

import deepnotes as dn
from deepnotes.equations import orthogonalize

with np.load(Path(__file__).parents[2] / "fixtures" / "muon.npz") as file:
    STORED = dict(file)

X, Y = DATA["X"], DATA["real"]
CASES: dict[str, dict[str, Any]] = {
    "muon": {},
    "muon_decay": {"weight_decay": 0.1, "momentum": 0.8, "nesterov": False},
    "muon_match": {"match_adamw": True},
}


def network(backend: Any = "numpy") -> dn.Network:
    layers = [dn.Dense(7, "tanh"), dn.Dense(6, "tanh"), dn.Dense(3)]
    net = dn.Network(layers, 5, backend=backend, dtype="float64", seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_parameters_are_those_of_pytorch(name: str, backend: str) -> None:
    net, optimizer = network(BACKENDS[backend]()), dn.Muon(0.02, adam_share=0.25, **CASES[name])
    losses = [net.partial_fit(X[:, batch], Y[:, batch], optimizer=optimizer) for batch in 10 * BATCHES]
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10, atol=0)
    for key, expected in by_name(net, STORED[f"{name}/parameters"]).items():
        result = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 6), (6, 1)])
def test_the_singular_values_of_an_orthogonalized_matrix_are_near_1(shape: tuple[int, int]) -> None:
    G = np.random.default_rng(0).normal(size=shape)
    U, _, Vt = np.linalg.svd(G, full_matrices=False)
    O = orthogonalize(np, G, 5, 1e-7)  # noqa: E741
    left = U.T @ O @ Vt.T  # the iteration keeps the singular vectors
    np.testing.assert_allclose(left, np.diag(np.diag(left)), atol=1e-12)
    assert np.all((np.diag(left) > 0.6) & (np.diag(left) < 1.3))


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not np.asarray(orthogonalize(np, np.zeros((3, 2)), 5, 1e-7)).any()


def test_training_is_resumed_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "muon", "batch_size": 8, "average": dn.EMA(0.9)}
    whole, resumed = network(), network()
    whole.fit(X, Y, epochs=4, **options)
    network().fit(X, Y, epochs=2, checkpoint=tmp_path, every=1, **options)
    resumed.fit(X, Y, epochs=4, checkpoint=tmp_path, every=1, resume=True, **options)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())


def test_other_layers_constraints_and_rates_of_layers_are_trained_too() -> None:
    layers = [dn.Dense(8, constraint=dn.MaxNorm(0.5)), dn.BatchNorm(), dn.LayerNorm(), dn.Dense(3)]
    net = dn.Network(layers, 5, seed=0)
    before = {name: np.array(value) for name, value in net.parameters.items()}
    history = net.fit(X, Y, optimizer=dn.Muon(), epochs=20, batch_size=8, layer_rates={4: 0})
    assert history.loss[-1] < history.loss[0]
    assert np.linalg.norm(net.parameters["W1"], axis=1).max() <= 0.5 + 1e-6
    unchanged = {name for name, value in before.items() if np.array_equal(net.parameters[name], value)}
    assert unchanged == {"W4", "b4"}


def test_invalid_options_are_refused() -> None:
    for options in ({"momentum": 1.5}, {"steps": 0}, {"epsilon": 0}, {"adam_share": -1}, {"nesterov": 3}):
        with pytest.raises(dn.ArgumentError, match=next(iter(options))):
            dn.Muon(**options)
    x = np.zeros(3)
    with pytest.raises(dn.ArgumentError, match="call its method for_layout before update"):
        dn.Muon().update(dn.get_backend("numpy").ops, x, x, (x, x), x, dn.Muon().scalars(1, 0.1))
