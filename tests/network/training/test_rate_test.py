"""The learning-rate range test: compared with PyTorch, its early end, its suggestion and its plot."""

from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from test_averaging import BACKENDS, STORED, X, Y, network

import deepnotes as dn
from deepnotes import plots


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_losses_match_those_of_pytorch(backend: str) -> None:
    net = network(BACKENDS[backend]())
    before = net.flat()
    settings: dict[str, Any] = {"lowest": 1e-4, "highest": 1.0, "updates": 40, "batch_size": 8, "stop_at": 100}
    test = dn.learning_rate_test(net, X, Y, optimizer="sgd", **settings)
    np.testing.assert_allclose(test.losses, STORED["range/losses"], rtol=1e-10)
    np.testing.assert_allclose(test.learning_rates, np.geomspace(1e-4, 1, 40), rtol=1e-13)
    np.testing.assert_array_equal(net.flat(), before)


def test_the_test_ends_when_training_diverges() -> None:
    test = dn.learning_rate_test(network(), X, Y, optimizer=dn.SGD(momentum=0.9), highest=1e4, updates=200)
    assert len(test.losses) == len(test.learning_rates) < 200
    assert test.learning_rates[-1] < 1e4
    assert test.suggestion is not None
    assert test.suggestion < test.learning_rates[-1]


def test_the_suggestion_is_within_the_longest_fall() -> None:
    rates = np.geomspace(1e-4, 1, 9)
    losses = np.array([5.0, 5.1, 4.9, 4.5, 4.6, 1.5, 1.4, 1.6, 9.0])  # it falls from 5.1 to 1.4
    assert dn.RateTest(rates, losses, 0.0).suggestion == rates[1 + 5 * 2 // 3]
    assert dn.RateTest(rates[:3], np.array([1.0, 2.0, np.inf]), 0.0).suggestion is None
    assert dn.RateTest(rates[:3], np.array([1.0, 2.0, 3.0]), 0.0).suggestion is None
    assert dn.RateTest(rates[:0], np.array([]), 0.0).suggestion is None
    np.testing.assert_array_equal(dn.RateTest(rates, losses, 0.5).smoothed[:1], [5.0])


@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_is_a_good_rate_although_small_batches_are_noisy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(3, 200))
    net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(1)], inputs=3, seed=seed, backend="numpy")
    suggestion = dn.learning_rate_test(net, inputs, inputs[:1] * inputs[1:2]).suggestion
    assert suggestion is not None
    assert 1e-3 < suggestion < 1


def test_native_arrays_and_class_indices_are_accepted() -> None:
    backend = cupy_backend()
    layers = [dn.Dense(4, "tanh"), dn.Dense(3, "softmax")]
    net = dn.Network(layers, 5, backend=backend, dtype="float64", seed=0)
    test = dn.learning_rate_test(net, backend.from_numpy(X), np.arange(X.shape[1]) % 3, updates=5)
    assert len(test.losses) == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lowest": 0.0}, "lowest"), ({"highest": 1e-7}, "highest"), ({"updates": 1}, "updates"),
        ({"batch_size": 0}, "batch_size"), ({"smoothing": 1.0}, "smoothing"), ({"stop_at": 0.0}, "stop_at"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        dn.learning_rate_test(network(), X, Y, **changed)


def test_the_plot_shows_the_losses_and_the_suggestion() -> None:
    pytest.importorskip("matplotlib", reason='the extra "plot" is not installed')
    test = dn.learning_rate_test(network(), X, Y, updates=60)
    (ax,) = test.plot().axes
    assert ax.get_xscale() == "log"
    legend = ax.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["each batch", "smoothed", f"suggestion: {test.suggestion:.2g}"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), test.losses[np.isfinite(test.losses)])
    figure = plots.learning_rates(test, ax=ax)
    assert figure is ax.figure
    with pytest.raises(dn.ArgumentError, match="1 of its losses are finite"):
        plots.learning_rates(dn.RateTest(np.array([0.1, 0.2]), np.array([1.0, np.inf]), 0.9))
