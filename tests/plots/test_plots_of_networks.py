"""The contents of plots of networks. The appearance was checked by eye."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawing import REASON, save_figure, visible_text

import deepnotes as dn
from deepnotes import plots

RNG = np.random.default_rng(0)
LONG_NAMES = ["a class with a very long name, number one", "a class with a very long name, number two", "$c_3$ & co"]
X2 = RNG.normal(size=(2, 60))
Y2 = (X2[0] > 0).astype(np.int64) + (X2[1] > 0)


@pytest.fixture(autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib.figure", reason=REASON)


# --- confusion matrices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [lambda c: c, lambda c: np.eye(3)[:, c], lambda c: 0.2 + 0.5 * np.eye(3)[:, c], lambda c: c.astype(np.float32)],
    ids=["indices", "one-hot", "outputs", "float indices"],
)
def test_a_confusion_matrix_counts_and_shades_by_true_class(convert: Any, tmp_path: Path) -> None:
    true, predicted = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2]), np.array([0, 1, 0, 1, 1, 2, 0, 2, 2, 2])
    figure = save_figure(plots.confusion(convert(predicted), convert(true), classes=LONG_NAMES), tmp_path)
    ax = figure.axes[0]
    assert np.allclose(ax.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [1 / 5, 0, 4 / 5]], rtol=1e-15)
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells[0, 0] == "2\n67%"
    assert cells[1, 0] == "1\n33%"
    assert cells[0, 2] == "1\n20%"
    assert ax.get_title() == "80.0% of 10 right"
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["a class wit…mber one", "a class wit…mber two", r"\$c_3\$ & co"]


def test_confusion_of_uses_the_predictions_and_class_names_of_a_network(tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(3, "softmax")], inputs=2, seed=0)
    net.metadata = {"classes": ["x", "y", "z"]}
    figure = save_figure(plots.confusion_of(net, X2, Y2), tmp_path)
    accuracy = net.evaluate(X2, Y2, metrics="accuracy")["accuracy"]
    assert figure.axes[0].get_title() == f"{accuracy:.1%} of 60 right"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["x", "y", "z"]
    one_output = dn.Network([dn.Dense(1, "sigmoid")], inputs=2, seed=0)
    figure = plots.confusion_of(one_output, X2, Y2 > 0)
    assert np.shape(figure.axes[0].images[0].get_array()) == (2, 2)


def test_cells_of_many_classes_show_only_counts_or_nothing(tmp_path: Path) -> None:
    ax_of_10 = save_figure(plots.confusion(np.arange(10), np.arange(10)), tmp_path).axes[0]
    assert sorted(text.get_text() for text in ax_of_10.texts) == [""] * 90 + ["1"] * 10
    ax_of_25 = save_figure(plots.confusion(np.arange(25), np.arange(25)), tmp_path).axes[0]
    assert len(ax_of_25.texts) == 0
    assert ax_of_25.images[0].get_array().shape == (25, 25)


def test_a_class_that_never_occurs_has_an_empty_row(tmp_path: Path) -> None:
    ax = save_figure(plots.confusion([0, 0], [0, 0], classes=["here", "never"]), tmp_path).axes[0]
    assert np.array_equal(ax.images[0].get_array(), [[1, 0], [0, 0]])


@pytest.mark.parametrize(
    ("predictions", "Y", "options", "error", "message"),
    [
        ([0, 1], [0], {}, dn.ShapeError, "Y has 1 samples but predictions have 2"),
        ([], [], {}, dn.DataError, "predictions hold no samples"),
        ([0, -1], [0, 1], {}, dn.DataError, "predictions holds -1, wanted class indices"),
        ([0, 1], [0, 0.5], {}, dn.DataError, "Y holds 0.5, wanted class indices"),
        ([0, np.nan], [0, 1], {}, dn.DataError, "not finite"),
        ([0, 1e9], [0, 1], {}, dn.DataError, "wanted class indices below 1000"),
        (["a", "b"], [0, 1], {}, dn.DTypeError, "predictions: got an array of <U1"),
        ([0, 2], [0, 1], {"classes": ["a", "b"]}, dn.ArgumentError, r"classes=\['a', 'b'\], wanted 3 names"),
        ([0, 1], [0, 1], {"classes": "ab"}, dn.ArgumentError, "classes='ab', wanted 2 names"),
        (np.zeros((2, 2, 2)), [0, 1], {}, dn.ShapeError, r"predictions has shape \(2, 2, 2\)"),
        ([0, 1], [0, 1], {"ax": "here"}, dn.ArgumentError, "ax='here', wanted matplotlib Axes"),
    ],
)
def test_invalid_confusion_matrices_are_refused(
    predictions: Any, Y: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plots.confusion(predictions, Y, **options)


# --- boundaries -------------------------------------------------------------------------------------------------------


def network_of_first_input() -> dn.Network:
    """Return a network that classifies by the sign of the first input alone."""
    net = dn.Network([dn.Dense(1, "sigmoid")], inputs=2, dtype="float64")
    net.parameters["W1"] = [[4.0, 0.0]]
    return net


def test_the_line_between_regions_is_where_the_predicted_class_changes(tmp_path: Path) -> None:
    figure = save_figure(plots.boundary(network_of_first_input(), X2, X2[0] > 0, classes=LONG_NAMES[:2]), tmp_path)
    ax = figure.axes[0]
    image = ax.images[0].get_array()
    assert image.shape == (256, 256, 3)
    left, right = image[:, 5], image[:, -5]
    assert np.ptp(left, axis=0).max() < 1e-12  # the colour does not depend on the second input
    assert abs(left[0] - right[0]).max() > 0.2
    (segment,) = [
        path.vertices for contours in ax.collections if hasattr(contours, "levels") for path in contours.get_paths()
    ]
    assert abs(segment[:, 0]).max() < 1e-3
    points = np.concatenate([scatter.get_offsets() for scatter in ax.collections if not hasattr(scatter, "levels")])
    assert sorted(map(tuple, points)) == sorted(map(tuple, X2.T))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a class wit…mber one", "a class wit…mber two"]


@pytest.mark.parametrize("k", [2, 3, 10, 12])
def test_each_class_has_its_own_points(k: int, tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(k, "softmax")], inputs=2, seed=0)
    labels = np.arange(60) % k
    (ax,) = save_figure(plots.boundary(net, X2, np.eye(k)[:, labels], resolution=40), tmp_path).axes
    scatters = [collection for collection in ax.collections if not hasattr(collection, "levels")]
    assert [len(collection.get_offsets()) for collection in scatters] == [int((labels == i).sum()) for i in range(k)]
    shapes = {
        (collection.get_paths()[0].vertices.tobytes(), tuple(collection.get_facecolor()[0])) for collection in scatters
    }
    assert len(shapes) == min(k, 10)


def test_the_outputs_of_a_regression_are_drawn_as_an_image(tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(1)], inputs=2, dtype="float64")
    net.parameters["W1"] = [[1.0, 0.0]]
    net.metadata = {"features": ["length (cm)", "cost in $"]}
    figure = save_figure(plots.boundary(net, X2, X2[0], resolution=16), tmp_path)
    ax = figure.axes[0]
    values = np.asarray(ax.images[0].get_array())
    assert values.shape == (16, 16)
    low, high = ax.get_xlim()
    assert np.allclose(values, np.linspace(low, high, 16), rtol=0, atol=1e-12)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length (cm)", r"cost in \$")
    assert figure.axes[1].get_ylabel() == "output"


def test_a_boundary_needs_only_one_point_and_no_targets(tmp_path: Path) -> None:
    for net in (network_of_first_input(), dn.Network([dn.Dense(1)], inputs=2, seed=0)):
        (ax, *_) = save_figure(plots.boundary(net, np.zeros((2, 1)), resolution=8), tmp_path).axes
        assert ax.get_xlim() == (-1, 1)
        assert ax.get_legend() is None


def test_invalid_boundaries_are_refused() -> None:
    net = network_of_first_input()
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        (dn.Network([dn.Dense(1)], inputs=3), (X2,), {}, dn.ShapeError, "the network has 3 inputs, wanted 2"),
        (dn.Network([dn.Dense(3)], inputs=2), (X2,), {}, dn.ArgumentError, "3 outputs that are not prob"),
        (dn.Network([dn.Dense(3, "sigmoid")], inputs=2), (X2,), {}, dn.ArgumentError, "3 sigmoid outputs"),
        (net, (X2.T,), {}, dn.ShapeError, r"X has shape \(60, 2\), .*pass X\.T"),
        (net, (X2[:, :0],), {}, dn.ShapeError, r"X has shape \(2, 0\)"),
        (net, (np.full((2, 2), np.nan),), {}, dn.DataError, "X holds numbers that are not finite"),
        (net, (X2, [0, 1]), {}, dn.ShapeError, r"Y has shape \(2,\), but X has 60 samples"),
        (net, (X2,), {"resolution": 1}, dn.ArgumentError, "resolution=1, wanted a whole number of at least 2"),
        (net, (X2,), {"classes": ["one"]}, dn.ArgumentError, "wanted 2 names"),
    ]
    for network, arguments, options, error, message in cases:
        with pytest.raises(error, match=message):
            plots.boundary(network, *arguments, **options)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "inputs", "shape"), [(3, 16, None), (64, 64, None), (100, 64, None), (5, 30, (3, 10))]
)
def test_the_weights_of_each_neuron_are_an_image(units: int, inputs: int, shape: Any, tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(units, "relu"), dn.Dense(2)], inputs=inputs, seed=0)
    figure = save_figure(plots.weights(net, shape=shape), tmp_path)
    ax = figure.axes[0]
    (image,) = ax.images
    mosaic = np.ma.filled(image.get_array(), np.nan)
    n = min(units, 64)
    W = np.asarray(net.parameters["W1"], dtype=np.float64)[:n]
    assert np.isfinite(mosaic).sum() == W.size
    assert sorted(mosaic[np.isfinite(mosaic)]) == sorted(W.ravel())
    height, width = shape or (round(inputs**0.5),) * 2
    assert np.array_equal(mosaic[:height, :width], W[0].reshape(height, width))
    assert np.array_equal(mosaic[:height, width + 1 : 2 * width + 1], W[1].reshape(height, width))
    assert image.norm.vmin == -image.norm.vmax == -abs(W).max()
    assert (
        ax.get_title()
        == ("weights of the first 64 of 100" if units == 100 else f"weights of {units}") + " neurons of layer 1"
    )


def test_weights_that_cannot_be_drawn_as_images_are_refused() -> None:
    net = dn.Network([dn.Dense(2)], inputs=30)
    for options, message in (
        ({}, r"30 inputs, which is not a square number; wanted shape=\(height, width\)"),
        ({"shape": (5, 5)}, r"shape=\(5, 5\) has 25 pixels, but the network has 30 inputs"),
        ({"shape": 5}, r"shape=5, wanted \(height, width\)"),
        ({"shape": (5, 6), "most": 0}, "most=0"),
    ):
        with pytest.raises(dn.ArgumentError, match=message):
            plots.weights(net, **options)
    with pytest.raises(dn.ArgumentError, match="the first layer is Dropout"):
        plots.weights(dn.Network([dn.Dropout(0.5), dn.Dense(2)], inputs=4))


# --- diagrams ---------------------------------------------------------------------------------------------------------


def test_a_diagram_shows_every_layer_and_shape(tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(2048, "leaky_relu"), dn.Dropout(0.25), dn.Dense(10, "softmax")], inputs=784)
    figure = save_figure(plots.diagram(net), tmp_path)
    texts = visible_text(figure).split("\n")
    for text in ("input", "(784, m)", "dense", "leaky relu", "(2,048, m)", "W1 2,048×784", "b1 2,048×1", "dropout"):
        assert text in texts
    for text in ("0.25", "W2 10×2,048", "b2 10×1", "softmax", "(10, m)", "1,628,170 parameters, float32"):
        assert text in texts
    assert texts.count("(2,048, m)") == 2
    ax = figure.axes[0]
    lines = [collection for collection in ax.collections if hasattr(collection, "get_segments")]
    neurons = [collection for collection in ax.collections if not hasattr(collection, "get_segments")]
    assert [len(collection.get_offsets()) for collection in neurons] == [8, 8, 8, 10]
    assert [len(collection.get_segments()) for collection in lines] == [8 * 8, 8, 8 * 10]
    assert texts.count("⋮") == 3


def test_a_diagram_names_user_defined_layers_and_activations(tmp_path: Path) -> None:
    class Square(dn.Layer):
        pass

    class Cube(dn.ActivationFunction):
        pass

    net = dn.Network([dn.Dense(1, Cube()), Square()], inputs=1)
    texts = visible_text(save_figure(plots.diagram(net), tmp_path)).split("\n")
    assert {"square", "Cube", "2 parameters, float32"} <= set(texts)
