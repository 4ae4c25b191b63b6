"""Snapshots: the parameters at chosen epochs, also of resumed and of short epochs, and plots of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes import plots

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 40))
Y = (X[0] * X[1] > 0).astype(np.int64)


def network(backend: str = "numpy", **options: Any) -> dn.Network:
    net = dn.Network([dn.Dense(6, "tanh"), dn.Dense(2, "softmax")], inputs=2, seed=0, backend=backend, **options)
    net.metadata = {"classes": ["no", "yes"]}
    return net


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_parameters_at_each_epoch_are_kept(backend: str) -> None:
    net, snapshots = network(backend), dn.Snapshots([5, 0, 2, 99])
    net.fit(X, Y, epochs=5, callbacks=[snapshots])
    assert list(snapshots.parameters) == [0, 2, 5]
    for epoch, theta in snapshots.parameters.items():
        other = network(backend)
        if epoch:
            other.fit(X, Y, epochs=epoch)
        np.testing.assert_array_equal(theta, other.flat())


def test_networks_are_copies() -> None:
    net, snapshots = network(standardizer=dn.Standardizer.fit(X)), dn.Snapshots([0, 2])
    net.fit(X, Y, epochs=2, callbacks=[snapshots])
    after = net.flat()
    networks = snapshots.networks()
    np.testing.assert_array_equal(networks[2].predict(X), net.predict(X))
    assert abs(networks[0].predict(X) - net.predict(X)).max() > 1e-3
    assert networks[0].metadata == net.metadata
    networks[0].set_flat(np.zeros(len(after)))
    np.testing.assert_array_equal(net.flat(), after)
    np.testing.assert_array_equal(snapshots.networks()[0].flat(), snapshots.parameters[0])


def test_another_training_run_starts_anew() -> None:
    net, snapshots = network(), dn.Snapshots([1, 3])
    net.fit(X, Y, epochs=3, callbacks=[snapshots])
    net.fit(X, Y, epochs=1, callbacks=[snapshots])
    assert list(snapshots.parameters) == [1]
    np.testing.assert_array_equal(snapshots.parameters[1], net.flat())


def test_a_checkpoint_keeps_earlier_snapshots(tmp_path: Path) -> None:
    whole, first, resumed = (dn.Snapshots([0, 1, 4]) for _ in range(3))
    network().fit(X, Y, epochs=5, callbacks=[whole])
    network().fit(X, Y, epochs=3, callbacks=[first], checkpoint=tmp_path / "run")
    network().fit(X, Y, epochs=5, callbacks=[resumed], checkpoint=tmp_path / "run", resume=True)
    assert list(first.parameters) == [0, 1]
    assert list(resumed.parameters) == [0, 1, 4]
    for epoch, theta in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[epoch], theta)


@pytest.mark.parametrize("epochs", [[], 3, "12", [1.5], [-1], [True], None])
def test_invalid_epochs_are_refused(epochs: Any) -> None:
    with pytest.raises(dn.ArgumentError, match="epochs"):
        dn.Snapshots(epochs)


# --- plots ------------------------------------------------------------------------------------------------------------


def test_each_network_has_a_panel_and_one_has_the_legend(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib.figure", reason="drawing needs deepnotes[plot]")
    net, snapshots = network(), dn.Snapshots([0, 1, 2, 4])
    net.fit(X, Y, epochs=4, callbacks=[snapshots])
    figure = plots.boundary(snapshots.networks() | {"the end": net}, X, Y, resolution=20)
    plots.save(figure, tmp_path / "growth.png")
    assert [ax.get_title() for ax in figure.axes] == ["epoch 0", "epoch 1", "epoch 2", "epoch 4", "the end"]
    assert [ax.get_legend() is not None for ax in figure.axes] == [False, False, True, False, False]
    images = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert (images[3] == images[4]).all()
    assert (images[0] != images[4]).any()
    into = plots.boundary({"a": net, "b": net}, X, resolution=20, ax=figure.axes[:2])
    assert into is figure


def test_invalid_panels_are_refused() -> None:
    pytest.importorskip("matplotlib.figure", reason="drawing needs deepnotes[plot]")
    with pytest.raises(dn.ArgumentError, match="network is an empty dict"):
        plots.boundary({}, X, Y)
    with pytest.raises(dn.ArgumentError, match="a sequence of 2 Axes, one for each network"):
        plots.boundary({0: network(), 1: network()}, X, Y, ax=[None])
    with pytest.raises(dn.ArgumentError, match=r"ax\[0\]"):
        plots.boundary({0: network()}, X, Y, ax=[None])
