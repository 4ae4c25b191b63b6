"""Averages of the parameters: compared with PyTorch's, used by evaluation, early stopping and files, and resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name

import deepnotes as dn

with np.load(Path(__file__).parents[2] / "fixtures" / "averages.npz") as file:
    STORED = dict(file)

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
PROGRAMS = {"numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}
AVERAGES = {"ema": dn.EMA(0.9), "swa": dn.SWA(12, every=5)}
X, Y = DATA["X"], DATA["real"]


def network(backend: Any = "numpy") -> dn.Network:
    layers = [dn.Dense(7, "tanh"), dn.Dense(6, "tanh"), dn.Dense(3)]
    net = dn.Network(layers, inputs=5, backend=backend, dtype="float64", seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net


def settings(name: str = "ema", **changes: Any) -> dict[str, Any]:
    plain = {"optimizer": dn.SGD(0.05, momentum=0.9), "batch_size": 8, "epochs": 10, "shuffle": False}
    return plain | {"average": AVERAGES[name]} | changes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_match_those_of_pytorch(name: str, backend: str) -> None:
    net = network(BACKENDS[backend]())
    history = net.fit(X, Y, validation=(X, Y), **settings(name))
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]
    for key, wanted in by_name(net, STORED[f"{name}/parameters"]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())
    assert history.val_loss[-1] == pytest.approx(float(STORED[f"{name}/loss"]), rel=1e-10)
    assert net.evaluate(X, Y)["loss"] == pytest.approx(history.val_loss[-1], rel=1e-12)


def test_the_updates_do_not_depend_on_the_averages() -> None:
    plain, averaged = network(), network()
    expected = plain.fit(X, Y, **settings(average=None))
    history = averaged.fit(X, Y, **settings())
    assert history.loss == expected.loss
    assert not np.allclose(averaged.flat(), plain.flat())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", AVERAGES)
def test_resumed_training_has_the_same_averages(name: str, backend: str, tmp_path: Path) -> None:
    whole, half = network(backend), network(backend)
    whole.fit(X, Y, **settings(name))
    half.fit(X, Y, checkpoint=tmp_path, every=1, **settings(name, epochs=4))
    resumed = network(backend)
    resumed.fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **settings(name))
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
    again = network(backend)
    again.fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **settings(name))
    np.testing.assert_array_equal(again.flat(), whole.flat())
    with pytest.raises(dn.CheckpointError, match="optimizer"):
        network(backend).fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **settings(name, average=dn.EMA(0.95)))


def test_files_and_predictions_have_the_averages(tmp_path: Path) -> None:
    net = network()
    net.fit(X, Y, **settings("swa"))
    net.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(dn.load(tmp_path / "model.safetensors").predict(X), net.predict(X))
    np.testing.assert_allclose(by_name(net, STORED["swa/parameters"])["W1"], net.parameters["W1"], rtol=1e-10)


def test_early_stopping_restores_the_averages_of_the_best_epoch() -> None:
    net = network()
    validation = X[:, ::3], -Y[:, ::3]
    history = net.fit(X, Y, validation=validation, early_stopping=2, **settings(epochs=40))
    assert history.best_epoch is not None
    assert history.best_epoch < len(history.loss)
    assert net.evaluate(*validation)["loss"] == pytest.approx(min(history.val_loss), rel=1e-12)


def test_the_parameters_are_not_averaged_before_the_first_update_that_counts() -> None:
    plain, averaged = network(), network()
    plain.fit(X, Y, **settings(average=None))
    averaged.fit(X, Y, **settings(average=dn.SWA(51)))
    np.testing.assert_array_equal(averaged.flat(), plain.flat())


def test_many_networks_are_averaged() -> None:
    nets = [network("numba"), network("numba")]
    dn.fit_many(nets, X, Y, **settings())
    alone = network("numba")
    alone.fit(X, Y, **settings())
    for net in nets:
        np.testing.assert_array_equal(net.flat(), alone.flat())


def test_an_average_of_a_user_defined_optimizer_follows_its_formula() -> None:
    class Changing(dn.Optimizer):
        learning_rate = 0.1
        factor = 1.0

        def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
            return theta - scalars["rate"] * self.factor * g, ()

    optimizer, net, reference = Changing(), network("numba"), network("numba")
    optimizer.factor = 0.5
    net.fit(X, Y, **settings(optimizer=optimizer))
    reference.fit(X, Y, **settings(optimizer=dn.SGD(0.05)))
    np.testing.assert_allclose(net.flat(), reference.flat(), rtol=1e-10)


@pytest.mark.parametrize(
    "make", [lambda: dn.EMA(1.0), lambda: dn.EMA(-0.1), lambda: dn.SWA(0), lambda: dn.SWA(1, every=0)]
)
def test_invalid_averages_are_refused(make: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"decay|start|every"):
        make()


def test_another_average_is_refused_before_training() -> None:
    net = network()
    before = net.flat()
    with pytest.raises(dn.ArgumentError, match="average: got float"):
        net.fit(X, Y, **settings(average=0.9))
    np.testing.assert_array_equal(net.flat(), before)
