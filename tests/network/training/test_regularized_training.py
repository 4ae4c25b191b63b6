"""The L1 penalty compared with PyTorch, whose results tests/fixtures/make_regularization.py stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name

import deepnotes as dn

with np.load(Path(__file__).parents[2] / "fixtures" / "regularization.npz") as file:
    STORED = dict(file)

X, Y = DATA["X"], DATA["real"]
BATCHES = [slice(at, at + 8) for at in range(0, 37, 8)]
CASES: dict[str, dict[str, Any]] = {
    "l1": {"optimizer": dn.SGD(0.1), "l1": 0.05},
    "l1_adam": {"optimizer": dn.Adam(0.01), "l1": 0.02},
    "elastic_net": {"optimizer": dn.SGD(0.05, momentum=0.9), "l1": 0.01, "l2": 0.03},
}
BACKENDS: dict[str, Any] = {
    "numpy": lambda: "numpy",
    "eager": lambda: dn.Backend("eager", np),
    "numba": lambda: "numba",
    "cupy": cupy_backend,
}
PROGRAMS = {"numpy": "NumpyProgram", "eager": "EagerProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}


def network(backend: str) -> dn.Network:
    """Return the network of the fixture, with its initial parameters: a quarter of them are 0."""
    layers = [dn.Dense(7, "tanh"), dn.Dense(6, "tanh"), dn.Dense(3)]
    net = dn.Network(layers, 5, backend=BACKENDS[backend](), dtype="float64", seed=0)
    net.parameters.update(by_name(net, STORED["start"]))
    return net


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_parameters_are_those_of_pytorch(name: str, backend: str) -> None:
    net = network(backend)
    losses = [net.partial_fit(X[:, batch], Y[:, batch], **CASES[name]) for batch in 10 * BATCHES]
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10, atol=0)
    for key, expected in by_name(net, STORED[f"{name}/parameters"]).items():
        result = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]


def test_fit_makes_the_updates_of_partial_fit() -> None:
    by_batch, by_epoch = network("numpy"), network("numpy")
    for batch in BATCHES:
        by_batch.partial_fit(X[:, batch], Y[:, batch], **CASES["l1"])
    by_epoch.fit(X, Y, epochs=1, batch_size=8, shuffle=False, **CASES["l1"])
    np.testing.assert_array_equal(by_epoch.flat(), by_batch.flat())


def test_l1_makes_the_weights_of_useless_inputs_small() -> None:
    X = np.random.default_rng(0).normal(size=(6, 200))
    net = dn.Network([dn.Dense(1)], 6, dtype="float64", seed=0, backend="numpy")
    net.fit(X, 2 * X[0] - X[1], l1=0.1, epochs=200, optimizer=dn.SGD(0.01))
    weights = abs(np.asarray(net.parameters["W1"])[0])
    assert weights[:2].min() > 0.5
    assert weights[2:].max() < 0.01


def test_a_checkpoint_from_before_l1_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepnotes.network.training import training_fingerprint

    compared = training_fingerprint._settings_to_compare
    options = {"batch_size": 8, "shuffle": False, "checkpoint": tmp_path, "every": 1}
    whole, resumed = network("numpy"), network("numpy")
    whole.fit(X, Y, epochs=3, **options | {"checkpoint": None, "every": None})
    with monkeypatch.context() as old:
        without = lambda training: {k: v for k, v in compared(training).items() if k != "l1"}  # noqa: E731
        old.setattr(training_fingerprint, "_settings_to_compare", without)
        network("numpy").fit(X, Y, epochs=1, **options)
    resumed.fit(X, Y, epochs=3, resume=True, **options)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
