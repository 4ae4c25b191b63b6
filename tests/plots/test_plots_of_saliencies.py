"""The contents of plots of saliency. The appearance was checked by eye."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import REASON, save_figure, visible_text

import deepnotes as dn
from deepnotes import plots

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 5)), np.array([0, 1, 2, 0, 1])


@pytest.fixture(autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib.figure", reason=REASON)


def network(inputs: int = 64, outputs: int = 3, **options: Any) -> dn.Network:
    last = "softmax" if outputs > 1 else "identity"
    return dn.Network([dn.Dense(8, "tanh"), dn.Dense(outputs, last)], inputs, dtype="float64", seed=0, **options)


def drawn_images(figure: Any) -> list[np.ndarray]:
    """Return the images of both rows, without gaps, one after the other: samples, then derivatives."""
    return [np.ma.masked_invalid(image.get_array()).compressed() for image in figure.axes[0].images]


def test_images_are_drawn_below_their_samples_relative_to_the_largest(tmp_path: Path) -> None:
    net = network()
    figure = save_figure(plots.saliency(net, X[:, :1], Y[:1]), tmp_path)
    samples, derivatives = drawn_images(figure)
    np.testing.assert_array_equal(samples, X[:, 0])
    expected = abs(net.input_gradient(X[:, :1], Y[:1]))[:, 0]
    np.testing.assert_allclose(derivatives, expected / expected.max(), rtol=1e-12)
    assert "derivative of the loss" in visible_text(figure)


def test_each_sample_has_its_own_scale_and_at_most_16_are_drawn(tmp_path: Path) -> None:
    net, many = network(), RNG.normal(size=(64, 20))
    _, derivatives = drawn_images(save_figure(plots.saliency(net, many, RNG.integers(0, 3, 20)), tmp_path))
    assert derivatives.size == 16 * 64
    assert (derivatives == 1).sum() == 16
    samples, _ = drawn_images(plots.saliency(net, many, most=2, shape=(4, 16)))
    assert samples.size == 2 * 64


def test_without_targets_the_largest_output_of_each_sample_is_drawn() -> None:
    net = network()
    samples = X[:, :1]
    k = int(np.argmax(net.predict(samples)))
    expected = abs(net.jacobian(samples))[k, :, 0]
    for options in ({}, {"output": k}):
        _, derivatives = drawn_images(plots.saliency(net, samples, **options))
        np.testing.assert_allclose(derivatives, expected / expected.max(), rtol=1e-12)


def test_features_are_bars_of_the_mean_by_the_standardized_input(tmp_path: Path) -> None:
    scales = np.array([[1.0], [100.0], [0.01], [7.0]])
    raw = X[:4] * scales
    net = network(4, standardizer=dn.Standardizer.fit(raw))
    net.metadata = {"features": ["a feature with a very long name, number 1", "$b$", "c", "d"], "classes": list("uvw")}
    figure = save_figure(plots.saliency(net, raw, output="v"), tmp_path)
    assert net.standardizer is not None
    expected = (abs(net.jacobian(raw)[1]) * net.standardizer.scale).mean(axis=1)
    (ax,) = figure.axes
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], sorted(expected)[::-1], rtol=1e-12)
    names = np.array(["a feature with a…me, number 1", r"\$b\$", "c", "d"])
    assert [label.get_text() for label in ax.get_yticklabels()] == names[np.argsort(-expected)].tolist()
    assert "mean change of the output v\nper standard deviation of the input" in visible_text(figure)


def test_twenty_of_many_features_are_drawn(tmp_path: Path) -> None:
    figure = save_figure(plots.saliency(network(50, 1), RNG.normal(size=(50, 3))), tmp_path)
    assert len(figure.axes[0].patches) == 20
    assert "20 of 50 features" in visible_text(figure)
    assert "$x_{" in visible_text(figure)
    named = plots.saliency(network(), X, features=range(64))
    assert len(named.axes[0].patches) == 20


def test_derivatives_that_are_zero_are_drawn() -> None:
    net = network()
    net.set_flat(np.zeros(net.layout.size))
    _, derivatives = drawn_images(plots.saliency(net, X, output=0))
    assert (derivatives == 0).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"Y": Y, "output": 1}, dn.ArgumentError, "either Y, for the loss, or output, but not both"),
        ({"shape": (8, 8), "features": range(64)}, dn.ArgumentError, "either shape, for images, or features"),
        ({"output": 3}, dn.ArgumentError, "output=3, wanted a number from 0 to 2 or the name of a class"),
        ({"output": "cat"}, dn.ArgumentError, "output='cat'"),
        ({"output": True}, dn.ArgumentError, "output=True"),
        ({"shape": (8, 9)}, dn.ArgumentError, "72 pixels"),
        ({"features": ["a"]}, dn.ArgumentError, "wanted 64 names"),
        ({"most": 0}, dn.ArgumentError, "most=0"),
        ({"X": X[:, :0]}, dn.ShapeError, r"X has shape \(64, 0\), wanted \(64, m\) with m at least 1"),
        ({"X": X.T}, dn.ShapeError, r"X has shape \(5, 64\)"),
        ({"Y": Y[:2]}, dn.ShapeError, "Y has 2 samples"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plots.saliency(network(), **{"X": X} | options)
